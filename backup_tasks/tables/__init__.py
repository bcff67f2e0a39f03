"""What every table of a profile is made of: a strict, frozen base, and the types of its values.

In: TOML values. Out: checked ones, or all that is wrong with them. Below: keys and secrets.
"""
