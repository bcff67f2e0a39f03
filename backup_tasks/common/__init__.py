"""Ground that everything stands on: text, units, paths, small files, terminal, time zones.

In come strings, numbers and paths; out come the same, checked or fit to print. Below it stand
only `errors`.
"""
