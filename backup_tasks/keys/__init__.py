"""Keys and secrets: recipients and identities of age, Ed25519 signatures, passwords by reference.

In come key files and their text; out come keys, and what is signed or revealed. Below:
`permissions`.
"""
