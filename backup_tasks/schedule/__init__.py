"""Runs at the times that profiles name: lines in a crontab, ours fenced from the others.

In come profiles and a crontab; out comes the crontab with our block anew. Below: `prune`.
"""
