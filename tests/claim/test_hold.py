"""Promises of the decision what sources lost: a loss alarms, and what is meant does not."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.claim.claim_file import Baseline, Hold
from backup_tasks.claim.hold import (
    FEW_BYTES,
    FEW_ENTRIES,
    Sight,
    baseline_of,
    find_alarms,
    for_claim,
    has_shrunk,
    hash_rules,
    may_lift,
    plan_hold,
    render_hold,
    standing_hold,
)
from backup_tasks.claim.hold_note import SourcesMemory, SourcesNote
from backup_tasks.format.manifest import Header, SourceCount, decode_header, encode_line

HALF = 0.5
THEN, NOW = "2025-06-12T02:00:00Z", "2025-06-13T02:00:00Z"
MANY = SourceCount(1000, 100 * FEW_BYTES)
HOLD = Hold(since=THEN, reasons=("/srv shrank",), before=Baseline(name="old"))

counts = st.builds(SourceCount, st.integers(0, 10**7), st.integers(0, 10**13))
sources = st.sampled_from(["/", "/etc", "/srv", "/srv/www", "/home/ä b"])
mounts = st.sampled_from(["/srv", "/srv/disk", "/home"])


@st.composite
def sights(draw: st.DrawFn) -> Sight:
    there = draw(st.dictionaries(sources, counts))
    return Sight(
        counts=there,
        missing=draw(st.dictionaries(sources, st.just("source: gone"))),
        unread=frozenset(draw(st.sets(st.sampled_from(sorted(there))))) if there else frozenset(),
        mounts=frozenset(draw(st.sets(mounts))),
        bare=frozenset(draw(st.sets(mounts))),
        rules=draw(st.sampled_from(["", "a", "b"])),
    )


def sight(**changed: Any) -> Sight:
    nothing: dict[str, Any] = {"counts": {}, "missing": {}, "rules": "a"}
    nothing |= {"unread": frozenset(), "mounts": frozenset(), "bare": frozenset()}
    return Sight(**(nothing | changed))


def alarms(before: Baseline | None, now: Sight, limit: float = HALF, **how: Any) -> list[str]:
    known: dict[str, Any] = {"has_earlier": True, "standing": None} | how
    return [alarm.text for alarm in find_alarms(before, now, limit, **known)]


def base(**changed: Any) -> Baseline:
    return Baseline(**({"name": "old", "counts": {"/srv": MANY}, "rules": "a"} | changed))


@pytest.mark.parametrize(
    "now",
    [
        SourceCount(499, MANY.bytes),
        SourceCount(MANY.entries, MANY.bytes // 2 - 1),
        SourceCount(1, 0),
        SourceCount(0, 0),
    ],
)
def test_a_source_that_lost_more_than_half_of_its_entries_or_bytes_alarms(now: SourceCount) -> None:
    [told] = alarms(base(), sight(counts={"/srv": now}))
    assert told.startswith("/srv shrank from 1,000 entries and 105MB to ")


@pytest.mark.parametrize(
    "now", [MANY, SourceCount(501, MANY.bytes // 2), SourceCount(10**6, 10**12)]
)
def test_a_source_that_kept_half_does_not(now: SourceCount) -> None:
    assert alarms(base(), sight(counts={"/srv": now})) == []


@pytest.mark.parametrize(
    ("before", "now", "shrunk"),
    [
        # /etc/hostname, a log that is rotated to half, and a folder of three files.
        (SourceCount(1, 40), SourceCount(1, 9), False),
        (SourceCount(1, FEW_BYTES - 1), SourceCount(1, 1), False),
        (SourceCount(1, FEW_BYTES), SourceCount(1, 1), True),
        (SourceCount(4, 3000), SourceCount(2, 900), False),
        (SourceCount(FEW_ENTRIES + 1, 3000), SourceCount(5, 3000), True),
        # Nothing is left of it: however small it was.
        (SourceCount(2, 40), SourceCount(1, 0), True),
        (SourceCount(1, 40), SourceCount(1, 0), True),
        (SourceCount(2, 0), SourceCount(1, 0), True),
        # An empty folder, and an empty file, as they were.
        (SourceCount(1, 0), SourceCount(1, 0), False),
    ],
)
def test_a_small_source_alarms_only_when_nothing_is_left_of_it(
    before: SourceCount, now: SourceCount, shrunk: bool
) -> None:
    assert has_shrunk(before, now, HALF) is shrunk


@given(before=counts, now=counts)
def test_a_limit_of_all_allows_everything(before: SourceCount, now: SourceCount) -> None:
    assert not has_shrunk(before, now, 1.0)


@given(before=counts, now=counts, limit=st.floats(0.01, 1), more=st.floats(0, 1))
def test_a_wider_limit_never_alarms_where_a_narrow_one_does_not(
    before: SourceCount, now: SourceCount, limit: float, more: float
) -> None:
    if not has_shrunk(before, now, limit):
        assert not has_shrunk(before, now, min(1.0, limit + more))


@given(now=sights(), limit=st.floats(0.01, 1))
def test_a_first_backup_never_alarms(now: Sight, limit: float) -> None:
    assert alarms(None, now, limit, has_earlier=False) == []


@given(now=sights())
def test_what_is_as_it_was_never_alarms(now: Sight) -> None:
    there = sight(counts=now.counts, mounts=now.mounts, rules=now.rules)
    assert alarms(there.as_baseline("x"), there) == []


@given(before=sights(), now=sights())
def test_new_and_removed_sources_never_alarm(before: Sight, now: Sight) -> None:
    known = before.as_baseline("x")
    others = {source: count for source, count in now.counts.items() if source not in known.counts}
    assert alarms(known, sight(counts=others, rules=now.rules)) == []


@given(before=sights(), now=sights())
def test_other_rules_of_what_is_left_out_explain_every_shrinking(before: Sight, now: Sight) -> None:
    known = before.as_baseline("x")
    told = alarms(known, sight(counts=now.counts, rules=known.rules + "more"))
    assert told == []


def test_other_rules_do_not_end_a_hold_that_stands() -> None:
    now = sight(counts={"/srv": SourceCount(1, 0)}, rules="b")
    assert alarms(base(), now) == []
    assert len(alarms(base(), now, standing=HOLD)) == 1


def test_a_mount_point_that_is_removed_or_left_out_ends_no_hold_that_names_it() -> None:
    known, now = base(mounts=("/srv/disk",)), sight(out_of_sight=frozenset({"/srv/disk"}))
    [told] = alarms(known, sight(bare=frozenset({"/srv/disk"})))
    assert alarms(known, now) == []
    assert alarms(known, now, standing=HOLD) == []
    assert alarms(known, now, standing=Hold(since=THEN, reasons=(told,))) == [told]
    assert alarms(known, sight(), standing=Hold(since=THEN, reasons=(told,))) == []


def test_a_mount_point_of_then_whose_folder_is_bare_alarms() -> None:
    before = base(mounts=("/srv/disk", "/srv/other"))
    [told] = alarms(before, sight(bare=frozenset({"/srv/disk"})))
    assert told == "/srv/disk is not mounted any more"
    # Its folder is gone too, or left out by now.
    assert alarms(before, sight()) == []


def test_a_missing_or_unreadable_source_alarms_unless_no_backup_ever_held_it() -> None:
    away = sight(missing={"/srv": "source: No such file or directory", "/tpyo": "source: x"})
    assert alarms(base(), away) == ["/srv is missing (No such file or directory)"]
    unread = sight(counts={"/srv": MANY, "/new": MANY}, unread=frozenset({"/srv", "/new"}))
    assert alarms(base(), unread) == ["/srv cannot be read"]
    # Backups of older versions, or those that cannot be opened here, do not tell.
    for unknown in (None, Baseline(name="old")):
        assert len(alarms(unknown, away)) == 2
        assert len(alarms(unknown, unread)) == 2


def test_of_two_sources_the_lost_one_is_named() -> None:
    before = base(counts={"/etc": MANY, "/srv": MANY})
    now = sight(counts={"/etc": MANY, "/srv": SourceCount(1, 0)})
    [told] = alarms(before, now)
    assert told.startswith("/srv ")


def test_a_hold_keeps_its_beginning_and_what_it_is_compared_with() -> None:
    found = find_alarms(
        base(), sight(bare=frozenset(), counts={"/srv": SourceCount(1, 0)}), HALF,
        has_earlier=True, standing=HOLD,
    )  # fmt: skip
    first = plan_hold(None, found, base(), THEN)
    assert first is not None
    assert (first.since, first.before) == (THEN, base())
    later = plan_hold(first, found, first.before, NOW)
    assert later == first
    assert plan_hold(first, [], base(), NOW) == first
    assert plan_hold(None, [], base(), NOW) is None


def test_any_number_of_reasons_fits_into_a_claim() -> None:
    many = {f"/{number:05}": f"source: {'x' * 100}" for number in range(5000)}
    before = base(counts=dict.fromkeys(many, MANY))
    found = find_alarms(before, sight(missing=many), HALF, has_earlier=True, standing=None)
    hold = plan_hold(None, found, before, NOW)
    assert hold is not None
    told = for_claim(hold, found, is_encrypted=False)
    assert len(msgspec.json.encode(told)) < 2**17
    assert told.reasons[-1] == "4,980 more"


def test_the_claim_of_an_encrypted_profile_names_no_path_and_no_number() -> None:
    secret = "/srv/secret"
    before = base(counts={secret: MANY, "/srv/away": MANY}, mounts=("/srv/secret/disk",))
    now = sight(
        counts={secret: SourceCount(77, 0)},
        missing={"/srv/away": "source: gone"},
        bare=frozenset({"/srv/secret/disk"}),
    )
    found = find_alarms(before, now, HALF, has_earlier=True, standing=None)
    hold = plan_hold(None, found, before, NOW)
    assert hold is not None
    told = for_claim(hold, found, is_encrypted=True)
    assert told.reasons == (
        "a source is missing",
        "something is not mounted any more",
        "a source shrank",
    )
    text = msgspec.json.encode(told).decode()
    assert "srv" not in text
    assert "77" not in text


def test_either_memory_of_a_hold_is_enough() -> None:
    other = Hold(since=NOW, reasons=("a source shrank",))
    assert standing_hold(None, None) is None
    assert standing_hold(HOLD, None) == HOLD
    assert standing_hold(None, HOLD) == HOLD
    both = standing_hold(HOLD, other)
    assert both is not None
    assert (both.since, both.reasons) == (THEN, other.reasons)


def test_a_hold_of_which_nothing_is_known_is_lifted_by_hand_alone() -> None:
    assert may_lift(base(), None, is_blind=False)
    assert may_lift(None, HOLD, is_blind=False)
    assert not may_lift(None, None, is_blind=False)
    assert not may_lift(None, HOLD, is_blind=True)
    told = render_hold(HOLD, "invoke backup --accept-shrink", is_known=False)
    assert told == (
        "held since 2025-06-12 02:00 UTC: /srv shrank; what the sources held is no longer known "
        "here, so look whether they are whole; then: invoke backup --accept-shrink"
    )


def test_a_header_tells_what_a_good_backup_held_and_one_with_alarms_nothing() -> None:
    header = Header(
        format=1,
        profile="p",
        host="h",
        started_at=THEN,
        written_at=THEN,
        tool="x",
        sources=("/etc", "/gone", "/srv", "/far"),
        entries=0,
        files=0,
        raw_bytes=0,
        chunks=0,
        chunk_bytes=0,
        name="n",
        source_counts=(MANY, None, SourceCount(3, 4)),
        mounts=("/srv",),
        rules="a",
    )
    assert baseline_of(header) == Baseline(
        name="n", counts={"/etc": MANY, "/srv": SourceCount(3, 4)}, mounts=("/srv",), rules="a"
    )
    assert baseline_of(msgspec.structs.replace(header, alarms=1)) is None


def test_readers_of_before_pass_over_what_headers_say_now() -> None:
    new = (*("needed_backups", "source_counts", "mounts", "rules", "alarms"),)
    fields = [
        (name, kind)
        for name, kind in get_type_hints(Header).items()
        if name not in new and name in Header.__struct_fields__
    ]
    old = msgspec.defstruct("Old", fields, kw_only=True)
    header = old(**{name: ("x",) if kind == tuple[str, ...] else kind(1) for name, kind in fields})
    known = msgspec.to_builtins(header)
    line = encode_line(
        Header(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()},
               source_counts=(MANY, None), mounts=("/srv",), rules="a", alarms=1)
    )  # fmt: skip
    assert msgspec.to_builtins(msgspec.json.decode(line, type=old)) == known
    # And what they wrote is read: nothing is known of its sources.
    before = decode_header(msgspec.json.encode(header))
    assert baseline_of(before) == Baseline(name="1")


def test_a_rule_more_gives_another_hash() -> None:
    assert hash_rules(("a", "b"), True) == hash_rules(("a", "b"), True)
    assert hash_rules(("a", "b"), True) != hash_rules(("a",), True)
    assert hash_rules(("a,b",), True) != hash_rules(("a", "b"), True)


def test_a_note_comes_back_and_a_broken_one_is_none(tmp_path: Any) -> None:
    memory = SourcesMemory(tmp_path, "key")
    assert memory.read() == SourcesNote()
    note = SourcesNote(baseline=base(), hold=HOLD, is_blind=True)
    memory.write(note)
    assert memory.read() == note
    for broken in (b"", b"[]", b"{", b"\xff", b'{"hold": 1}', b"[" * 10_000):
        (tmp_path / "sources" / "key.json").write_bytes(broken)
        assert memory.read() == SourcesNote()


def test_a_hold_of_a_claim_that_anybody_wrote_moves_no_cursor() -> None:
    told = render_hold(Hold(since="\x1b[2J\n", reasons=("\x1b]0;x\x07\n",)), "x", is_known=True)
    assert told.isprintable()
