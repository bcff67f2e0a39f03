"""Keys and secrets: recipients and identities of age, Ed25519 signatures, passwords by reference.

In: key files and their text. Out: keys, signatures, opened content and secrets. Below:
`permissions`.
"""
