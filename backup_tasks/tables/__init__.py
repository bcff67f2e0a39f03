"""The base of every table of a profile, strict and frozen, and the types of its values.

Takes values of TOML; gives checked values, or raises all their problems. Below: `keys`.
"""
