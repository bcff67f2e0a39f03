"""What every table of a profile is made of: a strict, frozen base, and the types of its values.

In come values of TOML; out come checked ones, or all that is wrong with them. Below: `keys`.
"""
