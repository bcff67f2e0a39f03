"""TOML to a checked, frozen profile; every problem is told with its file and line.

Takes the name of a profile; gives a `Profile`, or raises a `ProfileError` with all problems.
Below: `notify`.
"""
