"""Delete old backups, and say why the rest stays: retention, its guard, lifecycle rules.

In: the census and the profile's rules. Out: deletions, and a reason for each backup that stays.
Below: `verify`.
"""
