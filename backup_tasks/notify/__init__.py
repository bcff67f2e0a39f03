"""Tells people and programs how a run ended: channels, their tables, and whether to tell at all.

Takes a run record; sends messages, and notes those that failed. Below: `journal`.
"""
