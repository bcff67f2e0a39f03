"""Which backups count: what objects show, held against the keys and names that are accepted. Pure.

A name proves nothing, for anybody who may write to a store chooses his names. What counts is
ordered by the moment when it was begun, as its manifest says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backup_tasks.claim.acceptance import Acceptance
from backup_tasks.claim.claim_file import Name
from backup_tasks.claim.evidence import Evidence
from backup_tasks.manifest import Header
from backup_tasks.stores.base import StoredObject
from backup_tasks.text import printable

# "proven" alone counts. "likely": all but the hash of a large manifest was looked at. "unknown":
# nothing was. "not read back": proven, but reading it back found it damaged. "ahead": proven, but
# dated ahead of the clock.
ProofState = Literal["proven", "likely", "unknown", "unproven", "not read back", "ahead"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a backup counts.

    Attributes:
        why: it does not, in words fit to print; "" if it does.
        started_at: aware, as the manifest says it; None where that is not known.
        by_name: nothing but its name tells when it was begun, and that it is not a copy: it is
            encrypted, and no key was at hand.
    """

    state: ProofState
    why: str = ""
    started_at: datetime | None = None
    by_name: bool = False

    @property
    def counts(self) -> bool:
        """Whether the backup is proven."""
        return self.state == "proven"


UNKNOWN = Verdict("unknown", "it was not looked at yet")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one object.

    Attributes:
        evidence: None: it was not looked at.
        is_made_here: the state directory says so.
        unread: what went wrong when it was read back after its commit, or "".
    """

    evidence: Evidence | None = None
    is_made_here: bool = False
    unread: str = ""


def judge(
    objects: Sequence[StoredObject],
    known: Mapping[str, Known],
    acceptance: Acceptance,
    owners: Mapping[str, str] | None = None,
) -> dict[str, Verdict]:
    """Which objects are proven backups.

    Args:
        objects: those that are named as backups.
        known: name -> what is known of the very object that has it now.
        owners: footer -> name of the backup that it was once proven to belong to.

    Returns:
        Name -> verdict, for every object.
    """
    verdicts = {
        stored.name: _judge_alone(stored, known.get(stored.name, Known()), acceptance, owners or {})
        for stored in objects
    }
    for name, original in _copies(objects, known, verdicts):
        verdicts[name] = Verdict("unproven", f"it is a copy of {original}")
    return verdicts


def _judge_alone(
    stored: StoredObject, known: Known, acceptance: Acceptance, owners: Mapping[str, str]
) -> Verdict:
    evidence = known.evidence
    if evidence is None:
        return UNKNOWN
    if why := _why_not_accepted(stored, evidence, acceptance):
        return Verdict("unproven", why)
    header = evidence.header
    if header is None:
        owner = owners.get(evidence.footer, stored.name)
        if owner != stored.name:
            return Verdict("unproven", f"it is a copy of {owner}")
        return _passed(known, evidence, None)
    try:
        started_at = datetime.fromisoformat(header.started_at)
        if started_at.tzinfo is None:
            raise ValueError("a time without its zone")
    except ValueError:
        return Verdict("unproven", "its manifest does not say when it was begun")
    return _passed(known, evidence, started_at)


def _passed(known: Known, evidence: Evidence, started_at: datetime | None) -> Verdict:
    by_name = started_at is None
    if known.unread:
        return Verdict("not read back", known.unread, started_at, by_name)
    if not evidence.is_whole:
        return Verdict("likely", "not all of its manifest was read", started_at, by_name)
    return Verdict("proven", "", started_at, by_name)


def _why_not_accepted(stored: StoredObject, evidence: Evidence, acceptance: Acceptance) -> str:
    if not evidence.footer or (evidence.trouble and not evidence.is_locked):
        return evidence.trouble or "it is an ordinary .tar.gz, without a manifest of this program"
    header = evidence.header
    is_adopted = evidence.footer in acceptance.adopted
    if header is not None and (why := _why_not_of(header, stored.name, acceptance, is_adopted)):
        return why
    if not is_adopted:
        if not evidence.key:
            return "it is unsigned"
        if acceptance.keys and evidence.key not in acceptance.keys:
            return f"it is signed by {evidence.key}, which is not accepted here"
    if header is None and not is_adopted and not acceptance.trusts_locked:
        return "it is encrypted, and nothing tells whose it is"
    return ""


def _why_not_of(header: Header, name: str, acceptance: Acceptance, is_adopted: bool) -> str:
    if header.name != name and not (is_adopted and not header.name):
        named = printable(header.name) if header.name else "one that it does not name"
        return f"it holds another backup's bytes: those of {named}"
    whose = Name(header.profile, header.host)
    if not is_adopted and acceptance.names is not None and whose not in acceptance.names:
        return f"it is of profile {printable(header.profile)} on {printable(header.host)}"
    return ""


def _copies(
    objects: Iterable[StoredObject], known: Mapping[str, Known], verdicts: Mapping[str, Verdict]
) -> Iterable[tuple[str, str]]:
    """Of objects with one footer, each that is not the original, with the original's name.

    The original is the one that was made here; else the one that its manifest names, which
    those of another name do not get as far as this; else the one that was stored first.
    """
    groups: dict[str, list[StoredObject]] = {}
    for stored in objects:
        evidence = known.get(stored.name, Known()).evidence
        if evidence is not None and verdicts[stored.name].state not in ("unknown", "unproven"):
            groups.setdefault(evidence.footer, []).append(stored)
    for group in groups.values():
        if len(group) > 1:
            first, *others = sorted(
                group,
                key=lambda stored: (
                    not known[stored.name].is_made_here,
                    verdicts[stored.name].by_name,
                    stored.modified_at,
                    stored.name,
                ),
            )
            yield from ((stored.name, first.name) for stored in others)
