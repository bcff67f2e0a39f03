"""What a mail says, and that nothing in it can do harm."""

from __future__ import annotations

import subprocess
import tarfile
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.common.printable import one_line
from backup_tasks.errors import NotifyError
from backup_tasks.journal.run_record import Problem, RunRecord
from backup_tasks.notify.mail_text import render_mail
from backup_tasks.profile.model import Profile

NOW = datetime(2025, 6, 12, 0, 0, 36, tzinfo=UTC)
ARCHIVE = "2025-06-12_0200-backup.tar.gz"
DONE = RunRecord(
    task="backup",
    profile="prod",
    host="web1",
    store="s3://my-bucket/backups/",
    started_at=NOW - timedelta(seconds=35),
    ended_at=NOW,
    archive=ARCHIVE,
    raw_bytes=342_000_000,
    archive_bytes=120_000_000,
    sent_bytes=120_000_000,
    files=12_345,
    pruned=["2025-05-12_0200-backup.tar.gz"],
)
FAILED = structs.replace(
    DONE, result="failure", archive="", pruned=[], error="s3://x: no such bucket"
)
SKIPPED = [Problem("/etc/shadow", "Permission denied"), Problem("/var/log/a", "changed")]
INCOMPLETE = structs.replace(DONE, result="incomplete", problems=SKIPPED)
PATHS = Paths(
    root=PROJECT_ROOT,
    profiles=Path("/srv/backup/profiles"),
    templates=PROJECT_ROOT / "templates",
    logs=Path("/srv/backup/logs"),
    state=Path("/nonexistent"),
)


def profile_with(description: str = "Production", **store: Any) -> Profile:
    return Profile.model_validate(
        {
            "name": "prod",
            "path": PATHS.profiles / "prod.toml",
            "description": description,
            "backup": {"sources": ["/etc"], "timezone": "Europe/Stockholm"},
            "store": {"url": "s3://my-bucket/backups/"} | store,
            "notify": {
                "email": {
                    "host": "smtp.example.com",
                    "from": "Backup <backup@example.com>",
                    "to": ["Ann <ann@example.com>", "bo@example.com"],
                }
            },
        }
    )


def parts_of(message: EmailMessage) -> tuple[str, str]:
    """The plain text and the HTML."""
    text, html = message.iter_parts()
    return text.get_content(), html.get_content()


# --- what it says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "subject"),
    [
        (DONE, "[backup] prod on web1: done, 120MB in 35s"),
        (INCOMPLETE, "[backup] prod on web1: done, 2 files missing"),
        (structs.replace(DONE, result="incomplete", problems=SKIPPED[:1]), "done, 1 file missing"),
        (FAILED, "[backup] prod on web1: FAILED"),
        (structs.replace(FAILED, task="prune"), "[backup] prod on web1: prune FAILED"),
        (
            structs.replace(DONE, task="prune", archive=""),
            "[backup] prod on web1: prune done in 35s",
        ),
    ],
)
def test_the_subject_tells_how_it_ended(record: RunRecord, subject: str) -> None:
    assert render_mail(record, profile_with(), PATHS)["Subject"].endswith(subject)


def test_text_and_html_tell_all_about_a_backup() -> None:
    for part in parts_of(render_mail(DONE, profile_with(), PATHS)):
        for fact in (
            "Backup done, 120MB in 35s",
            "prod (Production)",
            "web1",
            "s3://my-bucket/backups/",
            ARCHIVE,
            "120MB, from 342MB of files",
            "12,345",
            "2025-06-12 02:00:01 CEST",
            "1 older backup",
            "invoke restore --profile prod --name 2025-06-12_0200",
            f"aws s3 cp s3://my-bucket/backups/{ARCHIVE} - | tar xz",
            "/srv/backup/logs/backup.log",
        ):
            assert fact in part
        assert "Error" not in part
        assert "Not stored whole" not in part
        assert "This is a test" not in part


def test_a_failure_tells_the_reason_and_that_the_backups_before_it_are_untouched() -> None:
    for part in parts_of(render_mail(FAILED, profile_with(), PATHS)):
        assert "s3://x: no such bucket" in part
        assert "the ones before it are untouched" in part
        assert "invoke list --profile prod" in part
        assert "invoke restore" not in part


def test_another_task_without_an_archive_says_nothing_of_a_missing_backup() -> None:
    record = structs.replace(DONE, task="prune", archive="")
    for part in parts_of(render_mail(record, profile_with(), PATHS)):
        assert "invoke list --profile prod" in part
        assert "left no backup" not in part
        assert "restore" not in part


def test_every_line_of_an_error_is_told() -> None:
    record = structs.replace(
        FAILED, error="profiles/prod.toml:3: a: wrong\nprofiles/prod.toml:9: b: wrong"
    )
    text, html = parts_of(render_mail(record, profile_with(), PATHS))
    assert "  profiles/prod.toml:3: a: wrong\n  profiles/prod.toml:9: b: wrong\n" in text
    assert "profiles/prod.toml:3: a: wrong<br>profiles/prod.toml:9: b: wrong" in html


def test_warnings_are_told_and_counted_in_the_subject() -> None:
    record = structs.replace(DONE, warnings=["prune: s3://x: access denied"])
    message = render_mail(record, profile_with(), PATHS)
    assert message["Subject"].endswith("done, 120MB in 35s, 1 warning")
    for part in parts_of(message):
        assert "prune: s3://x: access denied" in part


def test_files_missing_are_named_with_their_reasons() -> None:
    for part in parts_of(render_mail(INCOMPLETE, profile_with(), PATHS)):
        assert "Not stored whole (2)" in part
        for problem in SKIPPED:
            assert problem.path in part
            assert problem.reason in part
        assert "more" not in part
        assert "invoke restore --profile prod" in part


def test_of_many_missing_files_the_first_fifty_are_named_and_the_others_counted() -> None:
    many = [Problem(f"/data/{number:04d}", "Input/output error") for number in range(2003)]
    for part in parts_of(render_mail(structs.replace(DONE, problems=many), profile_with(), PATHS)):
        assert "Not stored whole (2003)" in part
        assert "/data/0049" in part
        assert "/data/0050" not in part
        assert "and 1953 more" in part


def test_what_was_sent_is_told_when_it_is_less_than_the_archive() -> None:
    record = structs.replace(DONE, sent_bytes=3_000_000)
    for part in parts_of(render_mail(record, profile_with(), PATHS)):
        assert "120MB, from 342MB of files; 3.0MB were sent" in part


def test_a_profile_outside_the_folder_is_named_by_its_path() -> None:
    outside = profile_with().model_copy(update={"path": Path("/opt/my profiles/prod.toml")})
    text, _ = parts_of(render_mail(DONE, outside, PATHS))
    assert "invoke restore --profile '/opt/my profiles/prod.toml' --name" in text


def test_the_plain_command_names_the_endpoint_of_an_s3_compatible_server() -> None:
    profile = profile_with(endpoint_url="http://127.0.0.1:8333")
    text, _ = parts_of(render_mail(DONE, profile, PATHS))
    assert (
        f"aws s3 cp s3://my-bucket/backups/{ARCHIVE} - "
        "--endpoint-url http://127.0.0.1:8333 | tar xz" in text
    )


def test_the_plain_command_for_a_directory_store_restores(tmp_path: Path) -> None:
    store = tmp_path / "it's a store"
    store.mkdir()
    (tmp_path / "kept.txt").write_text("kept")
    with tarfile.open(store / ARCHIVE, "w:gz") as archive:
        archive.add(tmp_path / "kept.txt", "etc/kept.txt")
    text, _ = parts_of(render_mail(DONE, profile_with(url=f"file://{store}/"), PATHS))
    (command,) = (line.strip() for line in text.splitlines() if "tar xz" in line)
    target = tmp_path / "target"
    target.mkdir()
    subprocess.run(["sh", "-c", command], cwd=target, check=True)
    assert (target / "etc/kept.txt").read_text() == "kept"


# --- headers -------------------------------------------------------------------------------


def test_the_headers_are_those_of_an_automatic_mail() -> None:
    message = render_mail(DONE, profile_with(), PATHS)
    assert message["Date"] == "Thu, 12 Jun 2025 00:00:36 +0000"
    assert message["Message-ID"].endswith("@example.com>")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["From"] == "Backup <backup@example.com>"
    assert message["To"] == "Ann <ann@example.com>, bo@example.com"


def test_the_mail_travels_as_ascii_in_short_lines() -> None:
    profile = profile_with(description="Söder 🏠 " + "wide " * 60)
    record = structs.replace(DONE, host="wäb1", problems=[Problem("/" + "ö" * 500, "nej")])
    raw = render_mail(record, profile, PATHS).as_bytes()
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_line_breaks_in_a_name_add_no_header_and_no_line() -> None:
    evil = "web1\r\nBcc: victim@example.com\r\n\r\nhello"
    record = structs.replace(
        DONE, host=evil, problems=[Problem("/a\nb\r\n\r\nsigned: root", "x\ny")]
    )
    message = render_mail(record, profile_with(), PATHS)
    assert message["Bcc"] is None
    assert r"web1\r\nBcc" in message["Subject"]
    text, _ = parts_of(message)
    assert "\nBcc:" not in text
    assert "\nsigned" not in text


# --- whatever the names --------------------------------------------------------------------


def test_markup_in_a_name_is_shown_and_not_obeyed() -> None:
    evil = "<script>alert(1)</script>&lt;"
    record = structs.replace(DONE, host=evil, error=evil, problems=[Problem(f"/{evil}", evil)])
    text, html = parts_of(render_mail(record, profile_with(description=evil), PATHS))
    assert "<script>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;lt;") >= 5
    assert evil in text


def test_a_name_that_is_not_utf8_shows_its_bytes() -> None:
    path = b"/srv/caf\xe9".decode("utf-8", "surrogateescape")
    record = structs.replace(DONE, problems=[Problem(path, "Permission denied")])
    message = render_mail(record, profile_with(), PATHS)
    for part in parts_of(message):
        assert r"/srv/caf\xe9" in part
    assert message.as_bytes()


anything = st.text(st.characters(exclude_categories=())) | st.binary(max_size=20).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)


@settings(deadline=None)  # a busy machine may need long for its first template
@given(anything, anything, anything, anything, st.sampled_from([DONE, INCOMPLETE, FAILED]))
def test_no_text_from_outside_can_stop_or_split_a_mail(
    host: str, archive: str, path: str, error: str, record: RunRecord
) -> None:
    record = structs.replace(record, host=host, archive=archive, error=error)
    record.problems = [Problem(path, error)]
    message = render_mail(record, profile_with(), PATHS)
    assert message.as_bytes()
    assert one_line(message["Subject"]) == message["Subject"]
    assert sorted(set(message.keys())) == sorted(message.keys())


# --- templates that somebody changed --------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("fine\n{{ mail.profil }}", "backup.txt.j2:2: .*no attribute 'profil'"),
        ("fine\nfine\n{% if %}", "backup.txt.j2:3: "),
        ("{{ mail.facts + 1 }}", "backup.txt.j2:1: "),
        ("{% include 'other.j2' %}", "other.j2: no such template"),
        (b"\xff", "backup.txt.j2: "),
    ],
)
def test_a_broken_template_is_told_with_file_and_line(
    tmp_path: Path, broken: str | bytes, said: str
) -> None:
    for file in PATHS.templates.glob("*.j2"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed = broken.encode() if isinstance(broken, str) else broken
    (tmp_path / "backup.txt.j2").write_bytes(changed)
    with pytest.raises(NotifyError, match=said) as caught:
        render_mail(DONE, profile_with(), structs.replace(PATHS, templates=tmp_path))
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).isprintable()


def test_a_template_may_use_no_name_but_mail_and_sees_all_of_it(tmp_path: Path) -> None:
    for part in ("subject", "txt", "html"):
        (tmp_path / f"backup.{part}.j2").write_text("{{ mail.outcome }} {{ mail.kind }} åäö")
    message = render_mail(DONE, profile_with(), structs.replace(PATHS, templates=tmp_path))
    assert message["Subject"] == "done, 120MB in 35s success åäö"


def test_a_template_that_brings_in_half_a_character_still_makes_a_mail(tmp_path: Path) -> None:
    for part in ("subject", "txt", "html"):
        (tmp_path / f"backup.{part}.j2").write_text(r'{{ "a\udcffb" }}')
    message = render_mail(DONE, profile_with(), structs.replace(PATHS, templates=tmp_path))
    assert message.as_bytes()
    assert message["Subject"] == r"a\udcffb"
