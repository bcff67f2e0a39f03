"""Starts runs at the times that profiles name: lines in a crontab, with a fence around ours.

Takes profiles and a crontab; gives the crontab with our block rewritten. Below: `prune`.
"""
