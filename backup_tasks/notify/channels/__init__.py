"""The ways to tell of a run: a module each, with a `Channel` of its own as `CHANNEL`.

In: how a run ended, and the table of [notify] that is the channel's. Out: who was told, and who was
not. `notify.registry` finds them.
"""
