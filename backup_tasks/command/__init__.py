"""Around every task: profile, store and lock; supervision of a run; and what is printed.

In come a task's options; out come a job, its record, and text or JSON. Below: `schedule`.
"""
