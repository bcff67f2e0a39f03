"""The schedulers: one module each, with its `Scheduler` as `SCHEDULER`.

Takes due runs; installs them. `schedule.scheduler` finds the schedulers.
"""
