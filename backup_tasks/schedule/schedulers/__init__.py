"""The programs that start backups at their times: a module each, with its own as `SCHEDULER`.

In come runs that are due; out come the same as they are installed. `schedule.scheduler` finds them.
"""
