"""The frame of every task: profile, store and locks; supervision of a run; printed output.

In come a task's options; out come a job, its record, and text or JSON. Below: `schedule`.
"""
