"""What a run did: its record, its lines in the log, what could not be stored, and locks.

In comes what happens during a run; out come `logs/` and exit codes. Below: `stores`.
"""
