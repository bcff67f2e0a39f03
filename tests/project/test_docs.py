"""The documents keep their word: what they show is run, what they list is complete.

The commands of docs/recovery.md are run by test_recovery.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from backup_tasks.claim.claim_file import CLAIM_BYTES, DOMAIN, Claim
from backup_tasks.common.paths import PROJECT_ROOT
from backup_tasks.errors import BackupError, Interrupted
from backup_tasks.format.footer import END_CHUNK, Footer, encode_footer
from backup_tasks.format.manifest import Chunk, Entry, Header
from backup_tasks.format.signature_member import encode_signature
from backup_tasks.keys.signing import Signature
from tests.project.module_table import PAGE, render_page
from tests.project.test_layers import MODULES, PACKAGES
from tests.support.cron_box import CronBox, cron_box
from tests.support.project_copy import copy_project
from tests.support.readme_stage import BUCKET, Stage, build_stage, mask, read_session
from tests.support.s3_server import S3Server
from tests.support.shell_blocks import read_blocks
from tests.support.smtp_server import SmtpServer, make_certificates, start_smtp_server

__all__ = ["cron_box"]
_A_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d{4}-backup\.tar\.gz")
README = PROJECT_ROOT / "README.md"
DOCUMENTS = [README, PROJECT_ROOT / "CHANGELOG.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[tuple[SmtpServer, Path]]:
    certificates = make_certificates(tmp_path)
    with start_smtp_server("starttls", certificates=certificates, password="mail-secret") as server:
        yield server, certificates.authority


@pytest.fixture
def stage(
    tmp_path: Path, s3_server: S3Server, smtp: tuple[SmtpServer, Path], cron_box: CronBox
) -> Iterator[Stage]:
    server, authority = smtp
    mail = f'host = "127.0.0.1"\nport = {server.port}\nca_file = "{authority}"'
    yield build_stage(tmp_path, copy_project(tmp_path / "project"), s3_server, mail)
    s3_server.client().delete_bucket(Bucket=BUCKET)


def play(stage: Stage) -> Iterator[tuple[str, str, str]]:
    """Do what the README says: (command, what it says is printed, what is printed)."""
    newest = ""
    for block in read_blocks("README.md"):
        if block.language == "toml":
            stage.write_file("profiles/prod.toml", block.text)
        elif block.language == "console":
            for step in read_session(block):
                command = _A_NAME.sub(newest, step.command) if newest else step.command
                printed = stage.run(command)
                names = _A_NAME.findall(printed)
                newest = names[-1] if names else newest
                yield step.command, step.printed, printed


def test_every_command_of_the_readme_prints_what_it_says(
    stage: Stage, smtp: tuple[SmtpServer, Path]
) -> None:
    for command, said, printed in play(stage):
        assert mask(printed) == mask(said), f"$ {command}\n{printed}"
    assert (stage.project / "recovered" / str(stage.root).lstrip("/") / "etc/hosts").exists()
    assert len(smtp[0].messages) > 2, "notify-test, and each backup"


def test_the_readme_describes_every_task_and_no_other() -> None:
    from invoke.collection import Collection

    import tasks

    names = set(Collection.from_module(tasks).task_names)
    text = README.read_text()
    assert set(re.findall(r"^\| `invoke ([a-z-]+)` \|", text, re.M)) == names
    used = {
        word
        for block in read_blocks("README.md")
        if block.language == "console"
        for word in re.findall(r"^\$ invoke ([a-z-]+)", block.text, re.M)
    }
    assert used == names


def test_the_readme_names_every_exit_code() -> None:
    ours = {error.exit_code for error in _all_errors(BackupError) if error is not Interrupted}
    table = re.findall(r"^\| (\d+)( \+ n)? \|", README.read_text(), re.M)
    assert {int(code) for code, _ in table} == ours | {0, 3, 128}


def _all_errors(base: type[BackupError]) -> Iterator[type[BackupError]]:
    yield base
    for error in base.__subclasses__():
        yield from _all_errors(error)


def test_what_the_readme_makes_can_be_made() -> None:
    targets = re.findall(r"^make ([a-z]+)", README.read_text(), re.M)
    assert targets == ["demo", "test", "venv"]
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        assert file.is_file(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


def test_the_readme_leads_to_every_other_document() -> None:
    text = README.read_text()
    for document in DOCUMENTS[1:]:
        assert f"({document.relative_to(PROJECT_ROOT)})" in text


def _table(document: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    text = (PROJECT_ROOT / document).read_text()
    section = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.M)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.M)
    assert table
    rows = [line.strip("| ").split(" | ") for line in table[0].splitlines()]
    return rows[2:]


@pytest.mark.parametrize("struct", [Header, Chunk, Entry])
def test_the_format_lists_every_key_of_the_manifest(struct: type) -> None:
    rows = _table("docs/format.md", struct.__name__)
    assert [key for row in rows for key in re.findall(r"`(\w+)`", row[0])] == list(
        struct.__struct_fields__  # type: ignore[attr-defined]
    )


def test_the_format_lists_every_key_of_the_claim() -> None:
    rows = _table("docs/format.md", "Claim")
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row[0])]
    assert keys == list(Claim.__struct_fields__)
    text = (PROJECT_ROOT / "docs" / "format.md").read_text()
    assert f"`{DOMAIN.decode().rstrip()}\\n`" in text
    assert f"at most {CLAIM_BYTES // 1024} KiB" in text


def test_the_format_gives_the_defaults_of_an_entry() -> None:
    left_out = msgspec.to_builtins(Entry(type="file"))
    assert left_out == {"type": "file"}
    entry = Entry(type="file")
    for keys, _, default, *_ in _table("docs/format.md", "Entry"):
        for key in re.findall(r"`(\w+)`", keys):
            if key != "type":
                assert json.dumps(getattr(entry, key)) == default.strip("`")


def test_the_format_says_where_each_byte_of_the_footer_stands() -> None:
    footer = encode_footer(Footer(offset=0x1122334455, length=0x66778899, sha256=b"s" * 32))
    end = 0
    found = {}
    for offset, length, meaning in _table("docs/format.md", "Footer"):
        assert int(offset) == end
        end += int(length)
        found[meaning] = footer[int(offset) : end]
    assert end == len(footer)
    assert found["manifest: offset in the object"] == (0x1122334455).to_bytes(8, "little")
    assert found["manifest: stored bytes"] == (0x66778899).to_bytes(8, "little")
    assert found["manifest: SHA-256 of these bytes"] == b"s" * 32
    text = (PROJECT_ROOT / "docs" / "format.md").read_text()
    assert f"The last {len(footer)} bytes" in text
    assert f"`{END_CHUNK.hex()}`" in text


def test_the_format_says_where_each_byte_of_the_signature_stands() -> None:
    member = encode_signature(Signature(b"k" * 32, b"s" * 64))
    end = 0
    found = {}
    for offset, length, meaning in _table("docs/format.md", "Signature"):
        assert int(offset) == end
        end += int(length)
        found[meaning] = member[int(offset) : end]
    assert end == len(member)
    assert found["public key, Ed25519 (RFC 8032)"] == b"k" * 32
    assert found["signature"] == b"s" * 64
    text = (PROJECT_ROOT / "docs" / "format.md").read_text()
    assert f"{len(member)} bytes between the end mark and the footer" in text
    footer = Footer(offset=0x1122334455, length=0x66778899, sha256=b"s" * 32)
    assert footer.statement == b"backup-tasks signature 1\n" + encode_footer(footer)[16:66]
    assert f"a statement of {len(footer.statement)} bytes" in text


def test_the_page_of_modules_is_what_their_docstrings_say() -> None:
    assert PAGE.read_text() == render_page(), "run: make docs"


def test_the_architecture_shows_every_package_in_its_order() -> None:
    shown = [row[0].strip("`") for row in _table("docs/architecture.md", "Rooms")]
    assert shown == PACKAGES


def test_the_architecture_is_one_page() -> None:
    assert len((PROJECT_ROOT / "docs/architecture.md").read_text().splitlines()) <= 150


def test_the_architecture_says_where_a_change_goes() -> None:
    for _, place, besides in _table("docs/architecture.md", "Where a change goes"):
        for path in re.findall(r"`([\w./]+\.(?:py|toml)|\w+/)`", f"{place} {besides}"):
            assert (PROJECT_ROOT / "backup_tasks" / path).exists() or (
                PROJECT_ROOT / path
            ).exists(), path


@pytest.mark.parametrize("name", ["architecture", "decisions"])
def test_modules_that_a_document_names_are_there(name: str) -> None:
    text = (PROJECT_ROOT / "docs" / f"{name}.md").read_text()
    named = re.findall(r"`(\w+(?:\.\w+)+)`", text)
    ours = {word for word in named if word.partition(".")[0] in PACKAGES}
    assert ours
    assert ours - MODULES.keys() == set()


def test_every_decision_says_why_and_what_it_costs() -> None:
    text = (PROJECT_ROOT / "docs" / "decisions.md").read_text()
    questions = re.split(r"^### ", text, flags=re.M)[1:]
    for record in questions:
        question, _, rest = record.partition("\n")
        assert question.endswith("?")
        parts = re.findall(r"^\*\*(\w+)\.\*\* ", rest, re.M)
        assert parts == ["Chosen", "Why", "Cost"], question


def test_the_format_opens_with_its_words() -> None:
    text = (PROJECT_ROOT / "docs" / "format.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.M)[0] == "Words"
    words = [row[0] for row in _table("docs/format.md", "Words")]
    assert len(words) == len(set(words))
