"""People and programs told of a run: channels, each with its table, and whether anybody is told.

In comes a run record; out go messages, and notes of those that failed. Below: `journal`.
"""
