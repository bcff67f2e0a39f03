"""Which machine this is, for the claim: a hash of its id, never the id itself."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from backup_tasks.common.state_files import read_kept

MACHINE_ID = Path("/etc/machine-id")
# The id is the machine's secret. Only a keyed hash leaves the machine, made with this constant of
# our own, as sd_id128_get_machine_app_specific(3) advises.
_APPLICATION = bytes.fromhex("8f2c41d9a6b74e0f9a3d5c17e08b62f4")


def hash_machine(file: Path = MACHINE_ID) -> str:
    """64 hex digits that tell this machine from others; "" if it has no id."""
    try:
        text = read_kept(file, 100).decode("ascii").strip()
    except (OSError, ValueError):
        return ""
    if not re.fullmatch("[0-9a-f]{32}", text) or not int(text, 16):
        return ""  # "uninitialized", say
    return hmac.new(bytes.fromhex(text), _APPLICATION, hashlib.sha256).hexdigest()
