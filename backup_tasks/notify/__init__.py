"""People and programs told of a run: mail, its text, and whether anybody is to be told.

In comes a run record; out go mails, and notes of those that failed. Below: `prune`.
"""
