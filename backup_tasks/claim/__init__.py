"""Whose a prefix is, which backups are proven, what holds pruning, which clock is believed.

In come what objects show and what this machine remembers; out come decisions, mostly pure. Below:
`read`.
"""
