"""A backup proven: every hash, a comparison with the sources, and drills in a temporary folder.

In come backups; out come findings, each with the entry and what is wrong with it. Below:
`restore`.
"""
