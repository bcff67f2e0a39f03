"""Names of what is kept in the state directory."""

from __future__ import annotations

import hashlib


def state_key(profile: str, store_url: str) -> str:
    """A file name for what belongs to one profile and its store together."""
    return hashlib.sha256(f"{profile}\0{store_url}".encode()).hexdigest()[:16]
