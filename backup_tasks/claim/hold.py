"""Whether the sources lost something, so that nothing may be deleted for now. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from backup_tasks.claim.claim_file import Baseline, Hold
from backup_tasks.common.printable import one_line, printable
from backup_tasks.common.units import render_bytes
from backup_tasks.format.manifest import Header, SourceCount

# For a source that held less, a share says little: an alarm is raised only when nothing is left.
FEW_ENTRIES = 10
FEW_BYTES = 2**20
# Name this many reasons at most; leave a larger baseline out of the claim.
_NAMED_REASONS = 20
_BASELINE_BYTES = 2**16


class Sight(Struct, frozen=True):
    """The sources as one walk saw them.

    Attributes:
        counts: source -> what lies below it, for each source that is there.
        missing: source -> why it is not there.
        unread: sources that are folders and could not be read.
        mounts: mount points with data of their own that the walk went into, or that a source lies
            on, as `mount_text`; and mount points of the last good backup that the walk could not
            look into.
        bare: mount points of the last good backup with nothing mounted when the walk went by.
        out_of_sight: mount points of the last good backup that belong to a present source, and
            that the walk did not reach.
        rules: a hash of the profile's exclude rules.
    """

    counts: Mapping[str, SourceCount]
    missing: Mapping[str, str]
    unread: frozenset[str]
    mounts: frozenset[str]
    bare: frozenset[str]
    rules: str
    out_of_sight: frozenset[str] = frozenset()

    def as_baseline(self, name: str) -> Baseline:
        """The baseline for the next runs, if this backup is good."""
        return Baseline(
            name=name, counts=dict(self.counts), mounts=tuple(sorted(self.mounts)), rules=self.rules
        )


class Alarm(Struct, frozen=True):
    """One reason for a hold.

    Attributes:
        text: in words, with the path; without_path: in words that name no path.
        is_blind: no later run can tell that the sources are whole again.
    """

    text: str
    without_path: str
    is_blind: bool = False


def find_alarms(
    before: Baseline | None,
    now: Sight,
    shrink_limit: float,
    *,
    has_earlier: bool,
    standing: Hold | None,
) -> list[Alarm]:
    """Find what the sources have lost since the last good backup.

    Args:
        before: that backup; None if nothing is known of it.
        shrink_limit: the share that a source may lose, 0 to 1; 1 allows everything.
        has_earlier: whether there is any earlier backup.
        standing: the hold that stands, if any. While one stands, a changed exclude rule does not
            explain a loss, as that could end the hold. Removing or excluding a mount point that
            the hold names does not end it either.
    """
    if not has_earlier:
        return []
    return [
        *_away(before, now),
        *_unmounted(before, now, standing.reasons if standing is not None else ()),
        *_shrunk(before, now, shrink_limit, is_held=standing is not None),
    ]


def alarm_of_size(stored_bytes: int, content_bytes: int, shrink_limit: float) -> list[Alarm]:
    """Compare the sources with the size of the last backup, where nobody knows what it held.

    Content takes no more bytes stored than raw, so less content than that size is a loss.

    Args:
        stored_bytes: size of that backup; content_bytes: of the sources now.
    """
    before, now = SourceCount(0, stored_bytes), SourceCount(0, content_bytes)
    if not has_shrunk(before, now, shrink_limit):
        return []
    found, took = render_bytes(content_bytes), render_bytes(stored_bytes)
    text = f"the sources hold {found}, and the last backup alone took {took}"
    return [Alarm(text, "the sources shrank", is_blind=True)]


def _away(before: Baseline | None, now: Sight) -> Iterator[Alarm]:
    """Sources that are missing or cannot be read.

    A source that no backup ever held is left out: a misspelt new source is no loss.
    """
    known = before.counts if before is not None and before.counts else None
    for source, why in now.missing.items():
        if known is None or source in known:
            text = f"{printable(source)} is missing ({why.removeprefix('source: ')})"
            yield Alarm(text, "a source is missing")
    for source in sorted(now.unread):
        if known is None or source in known:
            yield Alarm(f"{printable(source)} cannot be read", "a source cannot be read")


def _unmounted(before: Baseline | None, now: Sight, held_for: Sequence[str]) -> Iterator[Alarm]:
    for mount in before.mounts if before is not None else ():
        text = f"{mount} is not mounted any more"
        if mount in now.bare or (mount in now.out_of_sight and text in held_for):
            yield Alarm(text, "something is not mounted any more")


def _shrunk(
    before: Baseline | None, now: Sight, shrink_limit: float, *, is_held: bool
) -> Iterator[Alarm]:
    if before is None or (before.rules != now.rules and not is_held):
        return
    for source, count in now.counts.items():
        earlier = before.counts.get(source)
        if earlier is not None and has_shrunk(earlier, count, shrink_limit):
            text = f"{printable(source)} shrank from {_in_words(earlier)} to {_in_words(count)}"
            yield Alarm(text, "a source shrank")


def has_shrunk(before: SourceCount, now: SourceCount, shrink_limit: float) -> bool:
    """Whether a source lost more than this share of its entries or of its bytes.

    A small source must have lost all its entries, or all its bytes.
    """
    # The source's own folder is there in any case.
    below_before, below_now = max(0, before.entries - 1), max(0, now.entries - 1)
    counts_entries = below_before >= FEW_ENTRIES or below_now == 0
    counts_bytes = before.bytes >= FEW_BYTES or now.bytes == 0
    return (counts_entries and below_before - below_now > shrink_limit * below_before) or (
        counts_bytes and before.bytes - now.bytes > shrink_limit * before.bytes
    )


def _in_words(count: SourceCount) -> str:
    entries = "1 entry" if count.entries == 1 else f"{count.entries:,} entries"
    return f"{entries} and {render_bytes(count.bytes)}"


def plan_hold(
    standing: Hold | None, alarms: Sequence[Alarm], before: Baseline | None, now: str
) -> Hold | None:
    """The hold while this run goes on: the one that stands, a new one, or None.

    A standing hold keeps its beginning.

    Args:
        before: the baseline that sources are compared with; stays the same while a hold stands.
        now: ISO 8601, UTC.
    """
    if not alarms:
        return standing
    reasons = tuple(alarm.text for alarm in alarms[:_NAMED_REASONS])
    if len(alarms) > _NAMED_REASONS:
        reasons += (f"{len(alarms) - _NAMED_REASONS:,} more",)
    since = standing.since if standing is not None else now
    return Hold(since=since, reasons=reasons, before=before)


def for_claim(hold: Hold, alarms: Sequence[Alarm], *, is_encrypted: bool) -> Hold:
    """The hold as the claim says it: without paths and numbers if the profile is encrypted."""
    if is_encrypted:
        kinds = tuple(dict.fromkeys(alarm.without_path for alarm in alarms))
        return Hold(since=hold.since, reasons=kinds or hold.reasons)
    if hold.before is None or len(msgspec.json.encode(hold.before)) <= _BASELINE_BYTES:
        return hold
    return Hold(since=hold.since, reasons=hold.reasons)


def standing_hold(of_claim: Hold | None, of_state: Hold | None) -> Hold | None:
    """The hold that stands, if the claim or the state directory knows one.

    Either is enough: putting back an older claim does not lift a hold that this machine knows, and
    losing the state directory does not lift a hold that the claim says.
    """
    if of_claim is None or of_state is None:
        return of_claim or of_state
    return msgspec.structs.replace(of_state, since=min(of_claim.since, of_state.since))


def may_lift(before: Baseline | None, of_state: Hold | None, *, is_blind: bool) -> bool:
    """Whether a run without alarms shows that the sources are whole again.

    It does not if nobody knows what they held: after the state directory was lost, the claim of an
    encrypted profile tells only that something was missing.

    Args:
        is_blind: nobody knew what was lost when the hold of the state directory began.
    """
    return before is not None or (of_state is not None and not is_blind)


def render_hold(hold: Hold, command: str, *, is_known: bool) -> str:
    """Say in one line since when nothing is deleted, why, and what to do.

    Args:
        command: ends the hold.
        is_known: whether the next run can tell that the sources are whole again.
    """
    ends = (
        f"this ends when the sources are whole again; if it is meant to be so: {command}"
        if is_known
        else "what the sources held is no longer known here, so look whether they are whole; "
        f"then: {command}"
    )
    # The hold may come from a claim that anybody wrote.
    since, reasons = hold.since[:16].replace("T", " "), "; ".join(hold.reasons)
    return f"held since {one_line(since)} UTC: {one_line(reasons)}; {ends}"


def accept_command(profile: str) -> str:
    """The command that ends a hold, ready to type."""
    return f"invoke backup --profile {profile} --accept-shrink"


def baseline_of(header: Header) -> Baseline | None:
    """The baseline in a backup's header; None if that backup is not good."""
    if header.alarms:
        return None
    pairs = zip(header.sources, header.source_counts, strict=False)
    counts = {source: count for source, count in pairs if count is not None}
    return Baseline(name=header.name, counts=counts, mounts=header.mounts, rules=header.rules)


def hash_rules(*rules: object) -> str:
    """Hash a profile's exclude rules; any changed rule changes the hash."""
    return hashlib.sha256(repr(rules).encode("utf-8", "backslashreplace")).hexdigest()[:16]
