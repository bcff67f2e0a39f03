"""TOML to a checked, frozen profile; every problem is told with its file and line.

In comes the name of a profile; out comes a `Profile`, or a `ProfileError` with all problems.
Below: `notify`.
"""
