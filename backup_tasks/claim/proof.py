"""Judge which backups count: compare their evidence with the accepted keys and names. Pure.

A name proves nothing, as anybody who may write to a store chooses names freely. Backups that count
are ordered by their start, as their manifests say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct

from backup_tasks.claim.acceptance import Acceptance
from backup_tasks.claim.claim_file import Name
from backup_tasks.claim.clock import APART, NAME_SPREAD
from backup_tasks.claim.evidence import Evidence
from backup_tasks.common.printable import printable
from backup_tasks.format.archive_names import parse_backup_name
from backup_tasks.format.manifest import Header
from backup_tasks.stores.base import StoredObject

# Only "proven" counts.
#   likely         all but the hash of a large manifest was checked
#   unknown        nothing was checked
#   another's      its manifest names another profile or host
#   not read back  proven, but reading it back after its commit failed
#   ahead          proven, but dated ahead of the clock
ProofState = Literal[
    "proven", "likely", "unknown", "unproven", "another's", "not read back", "ahead"
]


_SOUND = ("proven", "likely", "not read back")


class Verdict(Struct, frozen=True):
    """Whether a backup counts.

    Attributes:
        why: why it does not count, in words fit to print; "" if it counts.
        started_at: aware, as the manifest says it; None if that is not known.
        by_name: only its name tells when it was begun: it is encrypted, and no key was at hand.
        may_be_copy: `by_name`, and nothing shows that it was made here under this name: it may be
            a copy of a backup that was deleted long ago.
    """

    state: ProofState
    why: str = ""
    started_at: datetime | None = None
    by_name: bool = False
    may_be_copy: bool = False

    @property
    def counts(self) -> bool:
        """Whether the backup is proven."""
        return self.state == "proven"


UNKNOWN = Verdict("unknown", "it was not looked at yet")


class Known(Struct, frozen=True):
    """Facts known about one object.

    Attributes:
        evidence: None if it was not looked at.
        is_made_here: the state directory says that this machine made it.
        unread: why reading it back after its commit failed, or "".
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
    """Judge which objects are proven backups.

    Args:
        objects: those with a backup's name.
        known: name -> what is known of the very object that has this name now.
        owners: footer -> name of the backup that this footer was once proven to belong to.

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
    header = evidence.header
    is_adopted = evidence.footer in acceptance.adopted
    if header is not None and not is_adopted and (why := _why_anothers(header, acceptance)):
        return Verdict("another's", why)
    if why := _why_not_accepted(stored, evidence, acceptance, is_adopted):
        return Verdict("unproven", why)
    if header is None:
        owner = owners.get(evidence.footer, stored.name)
        if owner != stored.name:
            return Verdict("unproven", f"it is a copy of {owner}")
        named_at = parse_backup_name(stored.name, UTC)
        if why := _why_too_late(evidence, is_adopted, acceptance, named_at, NAME_SPREAD):
            return Verdict("unproven", why)
        return _passed(known, evidence, None)
    try:
        started_at = datetime.fromisoformat(header.started_at)
        if started_at.tzinfo is None:
            raise ValueError("a time without its zone")
    except ValueError:
        return Verdict("unproven", "its manifest does not say when it was begun")
    if why := _why_too_late(evidence, is_adopted, acceptance, started_at, APART):
        return Verdict("unproven", why)
    return _passed(known, evidence, started_at)


def _why_too_late(
    evidence: Evidence,
    is_adopted: bool,
    acceptance: Acceptance,
    began_at: datetime | None,
    spread: timedelta,
) -> str:
    if is_adopted or evidence.key not in acceptance.former:
        return ""
    if acceptance.until is None or began_at is None or began_at - spread <= acceptance.until:
        return ""
    until = acceptance.until.astimezone(UTC)
    return f"it is signed by {evidence.key}, which owned the store until {until:%Y-%m-%d %H:%M} UTC"


def _passed(known: Known, evidence: Evidence, started_at: datetime | None) -> Verdict:
    by_name = started_at is None
    if known.unread:
        return Verdict("not read back", known.unread, started_at, by_name)
    if not evidence.is_whole:
        return Verdict("likely", "not all of its manifest was read", started_at, by_name)
    may_be_copy = by_name and not known.is_made_here
    return Verdict("proven", "", started_at, by_name, may_be_copy)


def _why_not_accepted(
    stored: StoredObject, evidence: Evidence, acceptance: Acceptance, is_adopted: bool
) -> str:
    header = evidence.header
    if not evidence.footer or (evidence.trouble and not evidence.is_locked):
        return evidence.trouble or "it is an ordinary .tar.gz, without a manifest of this program"
    if header is not None and header.name != stored.name and not (is_adopted and not header.name):
        if header.name:
            return f"it holds another backup's bytes: those of {printable(header.name)}"
        lack = "does not say its own name" if evidence.key else "is unsigned"
        return f"it {lack}, as those that version 0.1.0 made"
    if is_adopted:
        return ""
    if not evidence.key:
        return "it is unsigned"
    if acceptance.keys and evidence.key not in acceptance.keys:
        return f"it is signed by {evidence.key}, which is not accepted here"
    if header is None and not acceptance.trusts_locked:
        return "it is encrypted, and nothing tells whose it is"
    return ""


def _why_anothers(header: Header, acceptance: Acceptance) -> str:
    whose = Name(header.profile, header.host)
    if acceptance.names is None or whose in acceptance.names:
        return ""
    return f"it is of profile {printable(header.profile)} on {printable(header.host)}"


def _copies(
    objects: Iterable[StoredObject], known: Mapping[str, Known], verdicts: Mapping[str, Verdict]
) -> Iterable[tuple[str, str]]:
    """Find copies, each with the name of its original: objects that share one footer.

    The original is the one that was made here; else one whose manifest was read; else the one
    that was stored first. An object whose manifest names another is judged unproven before this.
    """
    groups: dict[str, list[StoredObject]] = {}
    for stored in objects:
        evidence = known.get(stored.name, Known()).evidence
        if evidence is not None and verdicts[stored.name].state in _SOUND:
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
