"""What people and programs get to read of what a task found."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup_tasks.backup.scan import BackupPlan, SourceTotals
from backup_tasks.census.catalog import Backup, BackupDetails
from backup_tasks.command import print_backup, print_listing, print_reading, print_upkeep, printing
from backup_tasks.errors import UsageError
from backup_tasks.format.manifest import Entry, Header
from backup_tasks.journal.run_record import Problem, RunRecord
from backup_tasks.profile.load import ProfileSummary
from backup_tasks.read.authenticity import NO_PROOF
from backup_tasks.restore.extract import ExtractReport
from backup_tasks.restore.request import RestoreReport
from backup_tasks.stores.base import StoredObject

NOW = datetime(2025, 6, 13, 2, 0, 35, tzinfo=UTC)
TAKEN = datetime(2025, 6, 12, 2, 0, tzinfo=UTC)
NAME = "2025-06-12_0200-backup.tar.gz"
BACKUP = Backup("2025-06-12_0200", TAKEN, StoredObject(NAME, 120_000_000, TAKEN, "etag"))
OUTSIDE = "\x1b[31mred\x07\u202etxt\udcff"  # what a file may be called to mislead a reader


def header(problems: int = 0) -> Header:
    return Header(
        format=1,
        profile="prod",
        host="web1",
        started_at="2025-06-12T02:00:00Z",
        written_at="2025-06-12T02:00:35Z",
        tool="backup-tasks",
        sources=("/etc",),
        entries=13_000,
        files=12_345,
        raw_bytes=342_000_000,
        chunks=1,
        chunk_bytes=1,
        problems=problems,
    )


def record(**fields: object) -> RunRecord:
    made = RunRecord("backup", "prod", "web1", "s3://bucket/", TAKEN, NOW, archive=NAME)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_table_of_backups(capsys: pytest.CaptureFixture[str]) -> None:
    details = [
        BackupDetails(BACKUP, header()),
        BackupDetails(BACKUP, header(problems=2)),
        BackupDetails(BACKUP, None),
        BackupDetails(BACKUP, None, "its hash is wrong"),
    ]
    print_listing.print_backups(details, NOW, as_json=False)
    assert printed(capsys).splitlines() == [
        "name             age   size    new   files  duration  result",
        "2025-06-12_0200   1d  120MB  120MB  12,345       35s  complete",
        "2025-06-12_0200   1d  120MB  120MB  12,345       35s  2 files missing",
        "2025-06-12_0200   1d  120MB      -       -         -  plain .tar.gz",
        "2025-06-12_0200   1d  120MB      -       -         -  unreadable: its hash is wrong",
    ]


def test_backups_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_listing.print_backups([BackupDetails(BACKUP, None, "damaged")], NOW, as_json=True)
    assert json.loads(printed(capsys)) == [
        {
            "name": "2025-06-12_0200",
            "object": NAME,
            "taken_at": "2025-06-12T02:00:00Z",
            "archive_bytes": 120_000_000,
            "manifest": None,
            "trouble": "damaged",
            "is_locked": False,
            "proof": {"state": "unknown", "why": "it was not looked at yet"},
        }
    ]


def test_line_of_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    mtime_ns = int(TAKEN.timestamp()) * 10**9 + 5
    owner = {"user": "root", "group": "adm", "mtime_ns": mtime_ns}
    print_listing.print_entries(
        [
            Entry(path="etc/hosts", type="file", mode=0o644, size=1234, **owner),
            Entry(path="bin/su", type="file", mode=0o4755, size=1, uid=7, gid=8, mtime_ns=mtime_ns),
            Entry(path="etc", type="dir", mode=0o755, **owner),
            Entry(path="l", type="symlink", mode=0o777, link="etc/hosts", **owner),
            Entry(path="h", type="hardlink", mode=0o644, link="etc/hosts", **owner),
        ],
        as_json=False,
    )
    assert printed(capsys).splitlines() == [
        "-rw-r--r-- root/adm          1.2kB 2025-06-12 02:00 etc/hosts",
        "-rwsr-xr-x 7/8                  1B 2025-06-12 02:00 bin/su",
        "drwxr-xr-x root/adm              - 2025-06-12 02:00 etc",
        "lrwxrwxrwx root/adm              - 2025-06-12 02:00 l -> etc/hosts",
        "-rw-r--r-- root/adm              - 2025-06-12 02:00 h link to etc/hosts",
    ]


@pytest.mark.parametrize("mtime_ns", [-(2**63), 2**63 - 1, 10**30, -1])
def test_entry_of_any_age_is_shown(capsys: pytest.CaptureFixture[str], mtime_ns: int) -> None:
    print_listing.print_entries([Entry(path="old", type="file", mtime_ns=mtime_ns)], as_json=False)
    assert printed(capsys).rstrip().endswith(" old")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_entries_as_json_are_one_list(capsys: pytest.CaptureFixture[str], count: int) -> None:
    entries = [Entry(path=f"näme{number}", type="file") for number in range(count)]
    print_listing.print_entries(iter(entries), as_json=True)
    assert [entry["path"] for entry in json.loads(printed(capsys))] == [
        f"näme{number}" for number in range(count)
    ]


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (2, 2)])
def test_entries_that_break_off_are_valid_json_so_far(
    capsys: pytest.CaptureFixture[str], count: int, expected: object
) -> None:
    def broken() -> Iterator[Entry]:
        for _ in range(count):
            yield Entry(path="x", type="file")
        raise UsageError("nothing matches")

    with pytest.raises(UsageError):
        print_listing.print_entries(broken(), as_json=True)
    out = printed(capsys)
    assert (len(json.loads(out)) if out else out) == expected


def test_nothing_printed_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    entry = Entry(path=OUTSIDE.replace("\udcff", ""), type="symlink", link=OUTSIDE, user=OUTSIDE)
    print_listing.print_entries([entry], as_json=False)
    print_listing.print_backups([BackupDetails(BACKUP, None, OUTSIDE)], NOW, as_json=False)
    plan = BackupPlan({OUTSIDE: SourceTotals()}, 0, 0, 0, "none", 0, 0, 0, 0, 0, {}, [])
    print_backup.print_backup_plan(plan, as_json=False)
    print_upkeep.print_profiles([ProfileSummary("x", description=OUTSIDE)], as_json=False)
    out = printed(capsys)
    assert out.isprintable() or all(line.isprintable() for line in out.splitlines())


def test_backup_says_nothing_in_a_pipe_and_one_line_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_backup.print_backup(record(archive_bytes=120_000_000), as_json=False)
    assert printed(capsys) == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_backup.print_backup(record(archive_bytes=120_000_000, ended_at=TAKEN), as_json=False)
    assert terminal.getvalue() == f"{NAME} uploaded (120MB, 0s)\n"


def test_record_as_json_has_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    print_backup.print_backup(record(problems=[Problem("/x", "gone")]), as_json=True)
    told = json.loads(printed(capsys))
    assert (told["started_at"], told["ended_at"]) == (
        "2025-06-12T02:00:00Z",
        "2025-06-13T02:00:35Z",
    )
    [problem] = told["problems"]
    assert (problem["path"], problem["reason"], problem["kind"]) == ("/x", "gone", "unreadable")


def test_what_has_no_form_in_json_is_a_bug_and_never_its_repr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printing.print_json({"at": datetime(2025, 6, 12, tzinfo=UTC), "of": [Path("/a"), ("b", 1)]})
    told = json.loads(capsys.readouterr().out)
    assert told == {"at": "2025-06-12 00:00:00+00:00", "of": ["/a", ["b", 1]]}
    with pytest.raises(TypeError):
        printing.print_json({"held": object()})


def test_missing_files_are_named_up_to_a_screenful() -> None:
    many = [Problem(f"/file{number}", "gone") for number in range(1234)]
    lines = print_backup.render_missing(record(problems=many)).splitlines()
    assert lines[0] == f"{NAME} is done, but without 1,234 files:"
    assert lines[1] == "  /file0: gone"
    assert lines[-1] == "  and 1,214 more, in logs/runs.jsonl"
    assert len(lines) == 22


def restored(extracted: ExtractReport, *, dry_run: bool = False) -> RestoreReport:
    return RestoreReport(BACKUP, Path("/srv/back"), 3, 2_000_000, extracted, dry_run, NO_PROOF)


def test_restore_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_reading.print_restore(restored(ExtractReport(files=2, bytes=5_000_000)), as_json=False)
    assert printed(capsys) == (
        "2025-06-12_0200: restored 2 files (5.0MB, 3 entries, 2.0MB fetched) to /srv/back\n"
    )
    planned = restored(ExtractReport(files=1, bytes=7), dry_run=True)
    print_reading.print_restore(planned, as_json=False)
    assert printed(capsys) == (
        "2025-06-12_0200: would restore 1 file (7B, 3 entries, 2.0MB to fetch) to /srv/back\n"
    )


def test_notes_of_a_restore_stay_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    extracted = ExtractReport(files=1, kept=4)
    extracted.notes.add("owners were not set")
    print_reading.print_restore(restored(extracted), as_json=False)
    out, err = capsys.readouterr()
    assert "kept 4 that were there" in out
    assert err == "note: owners were not set\n"


def test_unrestored_entries_are_named_with_the_reason() -> None:
    extracted = ExtractReport()
    for number in range(25):
        extracted.add_problem(f"etc/{OUTSIDE}{number}", "disk full")
    lines = str(print_reading.unrestored(restored(extracted))).splitlines()
    assert lines[0] == "25 of 3 entries could not be restored:"
    assert lines[1].isprintable()
    assert lines[-1] == "  and 5 more"


def test_dry_run_of_a_backup(capsys: pytest.CaptureFixture[str]) -> None:
    totals = {"/etc": SourceTotals(1_234, 5_000_000), "/home": SourceTotals(1, 0)}
    problems = [Problem("/gone", "source: No such file or directory")]
    plan = BackupPlan(
        totals,
        1_235,
        5_000_000,
        5_000_000,
        "the store has no backup yet",
        0,
        0,
        0,
        0,
        0,
        {},
        problems,
    )
    print_backup.print_backup_plan(plan, as_json=False)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "source    entries   size",
        "/etc        1,234  5.0MB",
        "/home           1     0B",
        "together    1,235  5.0MB",
        "everything would be read and sent: the store has no backup yet",
    ]
    assert err == "missing: /gone: source: No such file or directory\n"


def test_dry_run_of_a_backup_says_what_is_kept_and_why_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dropped = {"an entry of it was deleted": 2}
    plan = BackupPlan({}, 9, 9, 1_000, NAME, 3_000_000, 5, 2, 1, 1, dropped, [])
    print_backup.print_backup_plan(plan, as_json=False)
    assert printed(capsys).splitlines()[2:] == [
        f"compared with {NAME}: 5 entries as before, 2 changed, 1 new, 1 gone",
        "would copy 3.0MB inside the store, read 1.0kB of files, and send that compressed",
        "would write 2 chunks anew: an entry of it was deleted",
    ]


def test_profiles_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        ProfileSummary("base", "Shared", base_only=True),
        ProfileSummary("prod", "Web", ("/etc",), "s3://b/", "0 2 * * *"),
        ProfileSummary("torn", problem="profiles/torn.toml:1: store: is missing"),
    ]
    print_upkeep.print_profiles(found, as_json=False)
    rows = printed(capsys).splitlines()
    assert rows[1].split("  ")[0] == "base"
    assert "for others to inherit" in rows[1]
    assert rows[2].endswith("0 2 * * *  ok")
    assert rows[3].endswith("profiles/torn.toml:1: store: is missing")


def test_types_of_entries_are_shown_as_ls_shows_them() -> None:
    shown = {
        kind: print_listing._entry_line(Entry(path="x", type=kind, mode=0o600))[0]
        for kind in ("file", "hardlink", "dir", "symlink", "fifo", "char", "block")
    }
    assert shown == dict(zip(shown, "--dlpcb", strict=True))
