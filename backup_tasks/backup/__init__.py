"""The job: scan, plan, write, commit, read back. `run_backup` reads from top to bottom.

Takes a profile and its store; gives one archive and a run record. Below: `staging`.
"""
