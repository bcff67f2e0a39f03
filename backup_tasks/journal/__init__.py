"""Record what a run did, log it, name the files that were not stored whole, and hold locks.

In: events of a run. Out: `logs/` and exit codes. Below: `stores`.
"""
