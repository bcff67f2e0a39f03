"""Promises of the journal: exact lines for people, whole records for programs, never a failure."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.journal.run_record import (
    Notification,
    Problem,
    RunRecord,
    append_record,
    log_result,
    open_log,
    read_records,
    render_result,
)
from tests.support.lock_wait import waiting_for_lock

# A moment of the machine's own zone, because the log is for people who look at its clock.
STARTED = datetime(2025, 6, 12, 2, 0, 1).astimezone()


def run(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "task": "backup",
        "profile": "prod",
        "host": "web1",
        "store": "s3://bucket/backups/",
        "started_at": STARTED - timedelta(seconds=35),
        "ended_at": STARTED,
        "archive": "2025-06-12_0200-backup.tar.gz",
        "archive_bytes": 120_000_000,
    }
    return RunRecord(**fields | changes)


def log_of(paths: Paths) -> str:
    return (paths.logs / "backup.log").read_text("utf-8")


def test_a_success_is_the_documented_line(paths: Paths) -> None:
    log_result(run(), paths)
    assert log_of(paths) == (
        "[2025-06-12 02:00:01] SUCCESS: 2025-06-12_0200-backup.tar.gz uploaded (120MB, 35s)\n"
    )


def test_a_failure_is_a_line_with_reason_and_duration(paths: Paths) -> None:
    log_result(run(result="failure", error="s3://bucket: no such bucket", archive=""), paths)
    assert log_of(paths) == (
        "[2025-06-12 02:00:01] FAILURE: backup prod: s3://bucket: no such bucket (35s)\n"
    )


def test_an_incomplete_run_names_the_first_missing_files(paths: Paths) -> None:
    problems = [Problem(f"/srv/{number}", "permission denied") for number in range(7)]
    log_result(run(result="incomplete", problems=problems[:1]), paths)
    log_result(run(result="incomplete", problems=problems), paths)
    one, many = log_of(paths).splitlines()
    assert one == (
        "[2025-06-12 02:00:01] WARNING: 2025-06-12_0200-backup.tar.gz uploaded (120MB, 35s); "
        "1 file missing: /srv/0: permission denied"
    )
    assert "; 7 files missing: /srv/0: permission denied; /srv/1: " in many
    assert many.endswith("/srv/4: permission denied; and 2 more")


def test_other_tasks_say_what_they_did() -> None:
    assert render_result(run(task="prune", archive="")) == "prune prod: done (35s)"
    assert render_result(run(task="cron-install", profile="-", archive="")) == (
        "cron-install: done (35s)"
    )
    assert render_result(run(task="restore")) == (
        "restore prod: 2025-06-12_0200-backup.tar.gz done (35s)"
    )


def test_several_reasons_become_one_line() -> None:
    error = "profiles/prod.toml:3: store.url: bad\nprofiles/prod.toml:9: backup: missing\n"
    assert render_result(run(result="failure", error=error)) == (
        "backup prod: profiles/prod.toml:3: store.url: bad; "
        "profiles/prod.toml:9: backup: missing (35s)"
    )


def test_a_run_without_an_end_is_dated_with_its_start(paths: Paths) -> None:
    log_result(run(ended_at=None, result="failure", error="killed"), paths)
    assert log_of(paths) == "[2025-06-12 01:59:26] FAILURE: backup prod: killed (0s)\n"


@given(text=st.text(st.characters()))  # lone surrogates and controls too
def test_whatever_a_message_holds_it_stays_one_line(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    paths = Paths(PROJECT_ROOT, folder, folder, folder, folder)
    open_log(paths).info("%s", text)
    log_result(run(result="failure", error=text), paths)
    content = (folder / "backup.log").read_bytes()
    assert len(content.decode("utf-8").splitlines()) == content.count(b"\n") == 2


def test_a_traceback_stays_one_line(paths: Paths) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        open_log(paths).exception("unexpected")
    assert log_of(paths).count("\n") == 1


def test_only_the_owner_reads_log_and_records(paths: Paths) -> None:
    previous = os.umask(0)
    try:
        log_result(run(), paths)
        append_record(run(), paths)
    finally:
        os.umask(previous)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in paths.logs.iterdir()}
    assert modes == {"backup.log": 0o600, "runs.jsonl": 0o600}


def test_a_log_that_was_rotated_is_begun_anew(paths: Paths) -> None:
    log = open_log(paths)
    log.info("before")
    (paths.logs / "backup.log").rename(paths.logs / "backup.log.1")
    log.info("after")
    assert log_of(paths).endswith("INFO: after\n")
    assert log_of(paths).count("\n") == 1


def test_a_record_holds_everything_and_comes_back(paths: Paths) -> None:
    append_record(
        run(
            result="incomplete",
            exit_code=3,
            files=12,
            raw_bytes=7,
            sent_bytes=5,
            problems=[Problem("/a\\xff", "vanished", "vanished")],
            carried=2,
            carried_bytes=9,
            needed_backups=["2025-06-11_0200-backup.tar.gz"],
            pruned=["2025-05-01_0200-backup.tar.gz"],
            notifications=[Notification("email", "admin@example.com", "refused")],
        ),
        paths,
    )
    assert list(read_records(paths)) == [
        {
            "task": "backup",
            "profile": "prod",
            "host": "web1",
            "store": "s3://bucket/backups/",
            "started_at": _utc(STARTED - timedelta(seconds=35)),
            "ended_at": _utc(STARTED),
            "result": "incomplete",
            "exit_code": 3,
            "archive": "2025-06-12_0200-backup.tar.gz",
            "raw_bytes": 7,
            "archive_bytes": 120_000_000,
            "sent_bytes": 5,
            "copied_bytes": 0,
            "files": 12,
            "sockets": 0,
            "problems": [
                {
                    "path": "/a\\xff",
                    "reason": "vanished",
                    "kind": "vanished",
                    "is_source": False,
                    "files": 1,
                    "bytes": 0,
                    "carried_from": "",
                    "last_whole": "",
                }
            ],
            "torn": 0,
            "carried": 2,
            "carried_bytes": 9,
            "unreadable": 0,
            "unreadable_bytes": 0,
            "needed_backups": ["2025-06-11_0200-backup.tar.gz"],
            "pruned": ["2025-05-01_0200-backup.tar.gz"],
            "error": "",
            "warnings": [],
            "unpruned": [],
            "outcome": "",
            "evidence": [],
            "notifications": [{"channel": "email", "to": "admin@example.com", "error": "refused"}],
            "problems_total": 1,
        }
    ]


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def test_problems_are_counted_by_what_became_of_them() -> None:
    record = run()
    record.add_problem(Problem("a", "torn", "torn"))
    record.add_problem(Problem("b", "x", "carried", files=4, bytes=40, carried_from="2025-06-11"))
    record.add_problem(Problem("c", "x", files=3, bytes=30, last_whole="older"))
    record.add_problem(Problem("/d", "x", "missing", is_source=True, last_whole="older"))
    record.add_problem(Problem("e", "x", "vanished"))
    assert (record.torn, record.carried, record.carried_bytes) == (1, 4, 40)
    assert (record.unreadable, record.unreadable_bytes) == (4, 30)
    assert record.needed_backups == ["older"]
    record.forget_problems()
    assert record == run()


def test_a_source_is_named_however_many_problems_there_are() -> None:
    record = run()
    for number in range(5):
        record.add_problem(Problem(f"{number}", "x", "torn"), most=2)
    record.add_problem(Problem("/d", "x", "missing", is_source=True), most=2)
    assert [problem.path for problem in record.problems] == [
        "0",
        "1",
        *["(one more file)"] * 3,
        "/d",
    ]
    assert {problem.kind for problem in record.problems[:5]} == {"torn"}
    assert record.torn == 5


def test_a_million_problems_do_not_make_a_million_entries(paths: Paths) -> None:
    append_record(run(problems=[Problem("/a", "gone")] * 1500), paths)
    (record,) = read_records(paths)
    assert (len(record["problems"]), record["problems_total"]) == (1000, 1500)


@given(error=st.text(st.characters()))
def test_any_text_comes_back_from_a_record(
    error: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("records")
    paths = Paths(PROJECT_ROOT, folder, folder, folder, folder)
    append_record(run(error=error), paths)
    append_record(run(error="next"), paths)
    assert (folder / "runs.jsonl").read_bytes().count(b"\n") == 2
    first, second = read_records(paths)
    # Two surrogates that make a pair are one character for JSON.
    expected = error.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert [first["error"], second["error"]] == [expected, "next"]


@pytest.mark.parametrize("kept_bytes", [1, 30, -1])
def test_a_torn_last_line_costs_only_itself(paths: Paths, kept_bytes: int) -> None:
    append_record(run(error="first"), paths)
    append_record(run(error="torn"), paths)
    file = paths.logs / "runs.jsonl"
    first, torn = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + torn[:kept_bytes])
    append_record(run(error="third"), paths)
    errors = [record["error"] for record in read_records(paths)]
    whole = kept_bytes == -1  # only the newline was lost
    assert errors == (["first", "torn", "third"] if whole else ["first", "third"])


def test_lines_that_are_no_records_are_passed_over(paths: Paths) -> None:
    (paths.logs / "runs.jsonl").write_bytes(b'\xff\n[1]\n\n{"task":\n{"task":"backup"}\n')
    assert list(read_records(paths)) == [{"task": "backup"}]


def test_there_are_no_records_before_the_first_run(paths: Paths) -> None:
    assert list(read_records(paths)) == []


def test_the_logs_folder_is_made_when_it_is_missing(paths: Paths) -> None:
    paths.logs.rmdir()
    append_record(run(), paths)
    assert stat.S_IMODE(paths.logs.stat().st_mode) == 0o700


def test_logs_that_cannot_be_written_cost_a_warning_and_not_the_run(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.logs.rmdir()
    paths.logs.write_text("a file where the folder should be")
    log_result(run(), paths)
    log = open_log(paths)
    log.info("one")
    log.info("two")
    append_record(run(), paths)
    assert list(read_records(paths)) == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # a log warns once, not at every line
    assert all(line.startswith("WARNING: ") and str(paths.logs) in line for line in lines)


_WRITER = """
import resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from backup_tasks.journal.run_record import *
from backup_tasks.journal.run_record import append_record, open_log
from backup_tasks.common.paths import Paths

logs, limit, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
paths = Paths(logs, logs, logs, logs, logs)
for number in range(count):
    moment = datetime(2025, 6, 12, tzinfo=UTC)
    record = RunRecord("backup", "prod", "web1", "file:///nas", moment, error="x" * 20_000)
    append_record(record, paths)
    open_log(paths).warning("y" * 20_000)
"""


def _start_writer(logs: Path, limit: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(logs), str(limit), str(count)],
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_fills_up_leaves_only_whole_lines(paths: Paths) -> None:
    writer = _start_writer(paths.logs, limit=50_000, count=4)
    _, warnings = writer.communicate()
    assert writer.returncode == 0
    assert warnings.count("File too large") == 4
    assert len(list(read_records(paths))) == 2
    for name in ("runs.jsonl", "backup.log"):
        content = (paths.logs / name).read_bytes()
        assert content.endswith(b"\n")
        assert content.count(b"\n") == 2


def test_processes_that_write_at_once_never_mix_their_lines(paths: Paths) -> None:
    writers = [_start_writer(paths.logs, limit=0, count=40) for _ in range(3)]
    assert [writer.communicate()[1] for writer in writers] == ["", "", ""]
    assert len(list(read_records(paths))) == 120
    lines = log_of(paths).splitlines()
    assert {line.partition("] ")[2] for line in lines} == {"WARNING: " + "y" * 20_000}
    assert len(lines) == 120


def test_a_writer_that_is_killed_leaves_records_that_can_be_read(paths: Paths) -> None:
    file = paths.logs / "runs.jsonl"
    writer = _start_writer(paths.logs, limit=0, count=1_000_000)
    while not file.exists() or file.stat().st_size < 100_000:
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    before = len(list(read_records(paths)))
    append_record(run(error="after"), paths)
    records = list(read_records(paths))
    assert len(records) == before + 1
    assert json.dumps(records[-1]).count("after") == 1


def test_a_line_waits_for_the_one_that_somebody_is_writing(paths: Paths) -> None:
    """Else it would take the half of a line for one that a crash has torn, and end it."""
    append_record(run(), paths)
    file = paths.logs / "runs.jsonl"
    whole = file.read_bytes()
    with waiting_for_lock(file, lambda: append_record(run(error="mine"), paths)):
        for half in (whole[:20], whole[20:]):
            with open(file, "ab") as other:
                other.write(half)
    assert [record["error"] for record in read_records(paths)] == ["", "", "mine"]
    assert file.read_bytes().count(b"\n") == 3


def test_a_line_that_the_kernel_takes_bit_by_bit_is_whole(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: really_write(file, content[:7]))
    append_record(run(error="one"), paths)
    monkeypatch.undo()
    assert [record["error"] for record in read_records(paths)] == ["one"]
