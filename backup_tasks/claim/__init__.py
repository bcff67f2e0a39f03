"""Whose a store is and which backups in it count: claim, proof, hold and clock.

In come the store's list, the claim and the state directory's notes; out comes what may be
built upon, called the latest, and deleted. docs/safekeeping.md tells it to administrators.
"""
