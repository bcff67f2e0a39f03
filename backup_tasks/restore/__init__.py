"""An archive, or a part of it, brought back: choose, check the target, extract, finish.

In come a backup and patterns; out come files through `target`, and a report. Below: `target`.
"""
