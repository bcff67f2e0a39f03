"""The channels: one module each, with its `Channel` as `CHANNEL`; `notify.registry` finds them.

Takes how a run ended, and the channel's table in [notify]; gives who was told, and who was not.
"""
