"""Promises of whose a store is: each row of the table in docs/safekeeping.md."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from msgspec.structs import replace

from backup_tasks.claim.claim_file import (
    Claim,
    Hold,
    Name,
    owner_of,
    parse_claim,
    render_claim,
)
from backup_tasks.claim.ownership import Known, Ownership, counts_for, plan_ownership
from backup_tasks.keys.signing import make_signing_key

OURS, FORMER, THEIRS = "ed25519:ours", "ed25519:former", "ed25519:theirs"
HERE = Name("prod", "web1")
HOLD = Hold(since="2025-06-12T02:00:00Z", reasons=("/srv: no longer mounted",))
CLAIM = Claim(
    owner=OURS,
    profile="prod",
    host="web1",
    machine="m1",
    serial="s2",
    claimed_at="2025-06-01T02:00:00Z",
    renewed_at="2025-06-12T02:00:00Z",
    names=(HERE,),
)
KNOWN = Known(OURS, HERE, "m1", remembered=(CLAIM,))
STATE_LOST = Known("ed25519:new", HERE, "m1")
NEW_MACHINE = Known("ed25519:new", Name("prod", "web2"), "m2")


@dataclass(frozen=True)
class Around:
    """What would be found in the store and among the profiles."""

    newest: bool = True
    backups: bool = False
    others: tuple[str, ...] = ()

    def newest_is_ours(self) -> bool:
        return self.newest

    def has_backups(self) -> bool:
        return self.backups

    def sharers(self, *, all_profiles: bool) -> tuple[str, ...]:
        return self.others

    def shares_with(self, profile: str) -> bool:
        return profile in self.others


def change(claim: Claim, **fields: object) -> Claim:
    return msgspec.structs.replace(claim, **fields)


def plan(found: Claim | None, known: Known, around: Around | None = None) -> Ownership:
    return plan_ownership(found, "", known, around or Around())


def assert_goes_on(done: Ownership) -> Claim:
    """It backs up and prunes. Returns what it will write."""
    assert (done.refusal, done.unpruned) == ("", ())
    assert done.claim is not None
    return done.claim


def assert_deletes_nothing(done: Ownership, *words: str) -> None:
    assert done.refusal == ""
    assert len(done.unpruned) == 1
    for word in words:
        assert word in done.unpruned[0]


def assert_refused(done: Ownership, *words: str) -> None:
    assert done.claim is None
    for word in words:
        assert word in done.refusal


@pytest.mark.parametrize(
    ("found", "known"),
    [
        (None, KNOWN),
        (CLAIM, STATE_LOST),
        (CLAIM, NEW_MACHINE),
        (change(CLAIM, host="web2", machine="m2"), KNOWN),
        (change(CLAIM, serial="s9"), KNOWN),
    ],
)
def test_the_command_to_take_over_is_told_with_the_profile_as_one_types_it(
    found: Claim | None, known: Known
) -> None:
    done = plan(found, known, Around(newest=False))
    told = " ".join([done.refusal, *done.unpruned])
    assert "`invoke backup --profile prod --take-over`" in told
    assert told.count("take-over") == 1


# --- the rows of the table


def test_a_store_without_a_claim_is_claimed_if_its_newest_backup_is_ours_or_it_has_none() -> None:
    done = plan(None, replace(KNOWN, remembered=()))
    claim = assert_goes_on(done)
    assert done.writes_now
    assert (claim.owner, claim.profile, claim.host, claim.machine) == (OURS, *HERE_AND_MACHINE)
    assert (claim.names, claim.also, claim.hold) == ((HERE,), (), None)


HERE_AND_MACHINE = ("prod", "web1", "m1")


def test_a_store_without_a_claim_whose_newest_backup_is_anothers_is_left_alone() -> None:
    done = plan(None, KNOWN, Around(newest=False))
    assert_deletes_nothing(done, "newest backup", "--take-over")
    assert done.claim is None


def test_the_own_claim_goes_on() -> None:
    done = plan(CLAIM, KNOWN)
    claim = assert_goes_on(done)
    assert (claim.owner, claim.claimed_at, claim.names) == (OURS, CLAIM.claimed_at, (HERE,))
    assert (done.writes_now, done.notes) == (False, ())


@pytest.mark.parametrize(
    ("profile", "host", "machine"),
    [("old", "web1", "m1"), ("prod", "web0", "m1"), ("prod", "web1", "m0"), ("old", "web0", "m1")],
    ids=["profile", "host", "installed anew", "both names"],
)
def test_a_renamed_owner_goes_on_and_remembers_the_former_name(
    profile: str, host: str, machine: str
) -> None:
    found = change(
        CLAIM, profile=profile, host=host, machine=machine, names=(Name(profile, host),), hold=HOLD
    )
    done = plan(found, replace(KNOWN, remembered=(found,)))
    claim = assert_goes_on(done)
    assert set(claim.names) == {HERE, Name(profile, host)}
    assert claim.hold == HOLD
    assert bool(done.notes) == (Name(profile, host) != HERE)


def test_a_clone_on_another_host_and_machine_is_refused_and_told_what_to_do() -> None:
    done = plan(change(CLAIM, host="web0", machine="m0"), KNOWN)
    assert_refused(done, "clone", "profile prod on host web0", "--take-over")


@pytest.mark.parametrize("machine", ["", "m1"])
def test_a_machine_without_an_id_is_no_clone(machine: str) -> None:
    found = change(CLAIM, host="web0", machine="" if machine else "m0")
    assert_goes_on(plan(found, replace(KNOWN, machine=machine, remembered=(found,))))


def test_an_own_claim_that_was_written_by_another_writer_is_no_reason_to_delete() -> None:
    done = plan(change(CLAIM, serial="s9"), KNOWN)
    assert_deletes_nothing(done, "clone", "set back", "older claim")
    assert done.claim is not None
    assert done.is_new_dispute
    later = plan(CLAIM, replace(KNOWN, is_disputed=True))
    assert_deletes_nothing(later, "eight days")
    assert not later.is_new_dispute


def test_an_older_own_claim_that_is_put_back_lifts_no_hold() -> None:
    known = replace(KNOWN, remembered=(change(CLAIM, serial="s8", hold=HOLD),))
    done = plan(CLAIM, known)
    assert done.unpruned
    assert done.claim is not None
    assert done.claim.hold == HOLD


def test_an_older_own_claim_that_is_put_back_changes_not_whose_backups_count() -> None:
    older = change(CLAIM, serial="s1", adopted=("cd" * 32,))
    last = change(CLAIM, also=(FORMER,), names=(HERE, Name("web", "w")), adopted=("ab" * 32,))
    claim = plan(older, replace(KNOWN, remembered=(last,))).claim
    assert claim is not None
    assert (claim.also, claim.names) == (last.also, last.names)
    assert claim.adopted == ("ab" * 32, "cd" * 32)


def test_a_crash_between_note_and_claim_is_no_clone() -> None:
    known = replace(KNOWN, remembered=(CLAIM, change(CLAIM, serial="s3")))
    assert_goes_on(plan(CLAIM, known))
    assert_goes_on(plan(change(CLAIM, serial="s3"), known))


def test_another_profile_of_this_machine_that_owns_the_store_keeps_it() -> None:
    found = change(CLAIM, profile="web", names=(Name("web", "web1"),))
    known = replace(KNOWN, remembered=(found,))
    assert_refused(plan(found, known, Around(others=("web",))), "profile web", "prefix")
    done = plan(found, known, Around(others=("web",), backups=True))
    assert_deletes_nothing(done, "profile web", "both have backups")
    assert done.claim is None


def test_a_profile_with_backups_of_its_own_is_no_renamed_one() -> None:
    found = change(CLAIM, profile="web", names=(Name("web", "web1"),))
    assert_deletes_nothing(plan(found, KNOWN, Around(backups=True)), "profile web")


def test_the_owner_deletes_nothing_where_another_profile_uses_its_store() -> None:
    done = plan(CLAIM, KNOWN, Around(others=("web",)))
    assert_deletes_nothing(done, "profile web", "prefix")
    assert done.claim is not None


def test_after_the_state_was_lost_nothing_is_deleted_until_the_operator_says_so() -> None:
    assert_deletes_nothing(plan(CLAIM, STATE_LOST), "state directory", OURS, "--take-over")
    done = plan(CLAIM, replace(STATE_LOST, take_over=True))
    claim = assert_goes_on(done)
    assert done.writes_now
    assert (claim.owner, claim.also) == (STATE_LOST.own_key, (OURS,))


def test_another_key_where_we_have_made_backups_deletes_nothing() -> None:
    found = change(CLAIM, owner=THEIRS, host="web9", machine="m9")
    done = plan(found, replace(KNOWN, remembered=()), Around(backups=True))
    assert_deletes_nothing(done, "profile prod on host web9", "both have backups")
    assert done.claim is None


def test_another_key_where_we_have_made_none_is_refused() -> None:
    done = plan(CLAIM, NEW_MACHINE)
    assert_refused(done, "profile prod on host web1", "prefix", "--take-over")


def test_what_lies_there_and_is_no_claim_is_no_reason_to_delete_or_to_write() -> None:
    done = plan_ownership(None, "it is no claim", KNOWN, Around())
    assert_deletes_nothing(done, "it is no claim", "--take-over")
    assert done.claim is None


# --- taking over, and keys that change


def test_who_takes_over_keeps_keys_names_hold_and_what_was_adopted() -> None:
    found = change(CLAIM, also=(FORMER,), adopted=("ab" * 32,), hold=HOLD)
    claim = assert_goes_on(plan(found, replace(NEW_MACHINE, take_over=True)))
    assert (claim.owner, claim.also) == (NEW_MACHINE.own_key, (OURS, FORMER))
    assert (claim.profile, claim.host, claim.machine) == ("prod", "web2", "m2")
    assert claim.names == (Name("prod", "web2"), HERE)
    assert (claim.adopted, claim.hold) == (found.adopted, HOLD)


def test_who_takes_over_an_unfit_claim_keeps_the_hold_that_the_state_remembers() -> None:
    known = replace(KNOWN, take_over=True, remembered=(change(CLAIM, hold=HOLD),))
    done = plan_ownership(None, "it is no claim", known, Around())
    assert assert_goes_on(done).hold == HOLD


def test_a_clone_that_replaces_its_original_takes_over() -> None:
    found = change(CLAIM, host="web0", machine="m0")
    claim = assert_goes_on(plan(found, replace(KNOWN, take_over=True)))
    assert (claim.host, claim.also) == ("web1", ())


@pytest.mark.parametrize("host", ["web1", "evil"])
def test_a_claim_that_anybody_put_into_our_store_stops_no_backup(host: str) -> None:
    forged = change(CLAIM, owner=THEIRS, host=host, machine="m1" if host == "web1" else "m9")
    assert_deletes_nothing(plan(forged, KNOWN), "was this machine's before", "--take-over")


def test_who_takes_his_store_back_accepts_nothing_of_a_claim_that_anybody_may_have_put_there() -> (
    None
):
    forged = change(
        CLAIM, owner=THEIRS, also=(FORMER,), names=(Name("x", "y"),), adopted=("ab" * 32,)
    )
    done = plan(forged, replace(KNOWN, take_over=True))
    claim = assert_goes_on(done)
    assert (claim.owner, claim.also, claim.names, claim.adopted) == (OURS, (), (HERE,), ())
    assert THEIRS in done.notes[0]
    assert assert_goes_on(plan(change(forged, hold=HOLD), replace(KNOWN, take_over=True))).hold


def test_a_claim_of_the_machine_before_that_is_put_back_stops_no_backup() -> None:
    former = change(CLAIM, host="web0", machine="m0", serial="s0")
    later = change(CLAIM, renewed_at="2025-06-13T02:00:00Z")
    done = plan(former, replace(KNOWN, remembered=(later,)))
    assert_deletes_nothing(done, "an older claim")
    taken = change(former, renewed_at="2025-06-14T02:00:00Z")
    assert_refused(plan(taken, replace(KNOWN, remembered=(later,))), "clone")


def test_a_key_that_was_replaced_here_owns_the_store_without_being_told() -> None:
    found = change(CLAIM, owner=FORMER, hold=HOLD)
    done = plan(found, replace(KNOWN, remembered=(found,)))
    claim = assert_goes_on(done)
    assert done.writes_now
    assert (claim.owner, claim.also, claim.hold) == (OURS, (FORMER,), HOLD)


@pytest.mark.parametrize(
    "found",
    [change(CLAIM, owner=FORMER, serial="s9"), change(CLAIM, owner=THEIRS)],
    ids=["old", "x"],
)
def test_a_former_owner_is_not_brought_back_by_an_old_claim(found: Claim) -> None:
    done = plan(found, KNOWN, Around(backups=True))
    assert_deletes_nothing(done)
    assert done.claim is None


def test_a_claim_that_is_gone_is_written_anew_with_the_hold_it_had() -> None:
    known = replace(KNOWN, remembered=(change(CLAIM, hold=HOLD, adopted=("ab" * 32,)),))
    done = plan(None, known)
    claim = assert_goes_on(done)
    assert done.notes
    assert (claim.hold, claim.adopted) == (HOLD, ("ab" * 32,))


# --- for who reads


def test_the_claim_tells_a_new_machine_which_backups_are_whose() -> None:
    assert counts_for(CLAIM, NEW_MACHINE, Around())
    assert counts_for(CLAIM, replace(NEW_MACHINE, own_key=""), Around(backups=True))
    assert counts_for(CLAIM, KNOWN, Around())
    assert counts_for(CLAIM, STATE_LOST, Around(backups=True))


def test_a_claim_that_anybody_put_into_our_store_tells_a_reader_nothing() -> None:
    assert not counts_for(change(CLAIM, owner=THEIRS), KNOWN, Around(backups=True))
    assert not counts_for(change(CLAIM, owner=THEIRS), KNOWN, Around())
    former = change(CLAIM, owner=FORMER)
    assert counts_for(former, replace(KNOWN, remembered=(former,)), Around(backups=True))


def test_the_claim_of_another_tells_nothing_about_backups_of_ours_beside_it() -> None:
    assert not counts_for(CLAIM, NEW_MACHINE, Around(backups=True))
    web = change(CLAIM, profile="web")
    assert not counts_for(web, KNOWN, Around(others=("web",)))
    assert counts_for(web, KNOWN, Around())  # it was renamed


def test_a_host_name_that_changes_every_night_never_makes_the_claim_too_large() -> None:
    key = make_signing_key()
    owner = owner_of(key)
    claim = change(CLAIM, owner=owner)
    for night in range(3000):
        known = Known(owner, Name("p" * 64, f"{night:04}".ljust(64, "x")), "", (claim,))
        claim = assert_goes_on(plan(claim, known))
    assert parse_claim(render_claim(claim, key)) == claim
    assert claim.names[0] == known.name
