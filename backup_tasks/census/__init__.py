"""Which backups a store has, which of them count, and the one that is meant.

In come a store's list, claim and notes; out come `Backup`s in the order in which they were begun.
Below: `claim`.
"""
