"""The bytes of an archive: tar headers, manifest, footer, signature, names, and their limits.

In come entries and numbers; out come bytes, and the other way round. No store is read. Below:
`keys`.
"""
