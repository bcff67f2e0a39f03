"""The job: scan, plan, write, commit, read back. `run_backup` reads from top to bottom.

In come a profile and its store; out come one archive and a run record. Below: `staging`.
"""
