"""Ownership of a prefix, proof of backups, holds on pruning, and trust in clocks.

In: evidence from objects, and this machine's notes. Out: decisions, mostly pure. Below: `read`.
"""
