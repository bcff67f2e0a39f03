"""List a store's backups, decide which of them count, and choose the one that is meant.

In: a store's list, claim and notes. Out: `Backup`s in the order in which they were begun. Below:
`claim`.
"""
