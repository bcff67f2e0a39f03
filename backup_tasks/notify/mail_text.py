"""Renders a run record as a mail, with the operator's templates.

The templates are `backup.subject.j2`, `backup.txt.j2` and `backup.html.j2` in templates/. They see
one name, `mail`: a `MailView`.
"""

from __future__ import annotations

import shlex
import traceback
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from backup_tasks.common.printable import one_line
from backup_tasks.common.units import render_bytes, render_count, render_seconds
from backup_tasks.errors import NotifyError
from backup_tasks.format.archive_names import ENCRYPTED_SUFFIX, render_backup_id
from backup_tasks.journal.run_record import Problem, Result, RunRecord, summarize_problems

if TYPE_CHECKING:
    import jinja2

    from backup_tasks.common.paths import Paths
    from backup_tasks.notify.channel import ToldProfile

SHOWN_PROBLEMS = 50
SHOWN_EVIDENCE = 100
_SUBJECT_LENGTH = 200
# Tasks that only read an archive -> the word for what they did with its files.
_LOOKS = {"verify": "checked", "drill": "compared"}


class MailView(Struct, frozen=True):
    """The facts for a template; every text is one printable line, whatever the record held.

    Attributes:
        kind: "success", "incomplete" or "failure".
        is_test: whether the mail is a sample of `notify-test`.
        task: the task that ran: "backup", "prune", ...
        outcome: the end of the subject, for example "done, 120MB in 35s".
        title: the outcome as a heading.
        facts: (label, value) in reading order.
        skipped: the first SHOWN_PROBLEMS files that were not stored whole.
        skipped_count: the number of all such files; skipped_more: of those not in `skipped`.
        error_lines: why the run failed; usually one line; empty if it did not fail.
        warnings: what went wrong apart from the task itself.
        evidence: the findings of `verify` or `drill`; an indented line belongs to the line before.
        restore_command, plain_command: restore with and without this project; "" if the run has
            no good archive.
    """

    kind: Result
    is_test: bool
    task: str
    profile: str
    host: str
    outcome: str
    title: str
    facts: tuple[tuple[str, str], ...]
    skipped: tuple[Problem, ...]
    skipped_count: int
    skipped_more: int
    error_lines: tuple[str, ...]
    warnings: tuple[str, ...]
    evidence: tuple[str, ...]
    restore_command: str
    plain_command: str
    list_command: str
    log: str


def render_mail(
    record: RunRecord, profile: ToldProfile, paths: Paths, *, is_test: bool = False
) -> EmailMessage:
    """Render the mail about a run: plain text, and the same as HTML.

    Raises:
        NotifyError: a template cannot be read or filled in, an address is not valid, or the
            profile has no [notify.email].
    """
    settings = profile.notify.email
    if settings is None:
        raise NotifyError(f"profile {profile.name} has no [notify.email]")
    view = _view(record, profile, paths, is_test=is_test)
    subject, text, html = (
        _fill(paths.templates, f"backup.{part}.j2", view) for part in ("subject", "txt", "html")
    )
    message = EmailMessage(policy=policy.SMTP)
    try:
        message["From"] = settings.sender
        message["To"] = ", ".join(settings.to)
        message["Subject"] = one_line(subject)[:_SUBJECT_LENGTH]
    except ValueError as error:
        raise NotifyError(f"notify.email.from or to: {one_line(str(error))}") from None
    message["Date"] = format_datetime(record.ended_at or record.started_at)
    # By default the Message-ID would hold this machine's name, after a DNS look-up.
    domain = parseaddr(settings.sender)[1].rpartition("@")[2]
    message["Message-ID"] = make_msgid(domain=domain if domain.isascii() and domain else "invalid")
    message["Auto-Submitted"] = "auto-generated"
    message["X-Backup-Profile"] = one_line(record.profile)
    message["X-Backup-Result"] = record.result
    # Every mail server accepts quoted-printable: short lines, ASCII only, and commands stay whole.
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message


def _view(record: RunRecord, profile: ToldProfile, paths: Paths, *, is_test: bool) -> MailView:
    outcome = _render_outcome(record)
    warnings = [*record.warnings, *(f"nothing is deleted: {why}" for why in record.unpruned)]
    if warnings:
        outcome += f", {render_count(len(warnings), 'warning')}"
    task = one_line(record.task)
    shown = record.problems[:SHOWN_PROBLEMS]
    option = _profile_option(profile, paths)
    restore = f"invoke restore {option} --name {render_backup_id(record.archive)}"
    is_good = bool(record.archive) and record.result != "failure"
    return MailView(
        kind=record.result,
        is_test=is_test,
        task=task,
        profile=one_line(record.profile),
        host=one_line(record.host),
        outcome=outcome if record.task == "backup" else f"{task} {outcome}",
        title=f"{task.capitalize()} {outcome}",
        facts=tuple(_facts(record, profile)),
        skipped=tuple(Problem(one_line(one.path), one_line(one.reason)) for one in shown),
        skipped_count=len(record.problems),
        skipped_more=len(record.problems) - len(shown),
        error_lines=tuple(one_line(line) for line in record.error.splitlines()),
        warnings=tuple(one_line(warning) for warning in warnings),
        evidence=tuple(_keep_indent(line) for line in record.evidence[:SHOWN_EVIDENCE]),
        restore_command=one_line(restore) if is_good else "",
        plain_command=_plain_command(record.archive, profile) if is_good else "",
        list_command=f"invoke list {option}",
        log=one_line(str(paths.logs / "backup.log")),
    )


def _profile_option(profile: ToldProfile, paths: Paths) -> str:
    """The option that names the profile in a command: by path if it lies outside `profiles/`."""
    ours = profile.path.parent == paths.profiles
    return f"--profile {shlex.quote(one_line(profile.name if ours else str(profile.path)))}"


def _render_outcome(record: RunRecord) -> str:
    if record.result == "failure":
        return "FAILED"
    if record.result == "incomplete" and record.problems:
        return f"done, {summarize_problems(record)}"
    if record.task in _LOOKS:
        return f"passed, {render_count(record.files, 'file')} {_LOOKS[record.task]}"
    size = f", {render_bytes(record.archive_bytes)}" if record.archive else ""
    return f"done{size} in {_render_duration(record)}"


def _keep_indent(line: str) -> str:
    return "  " * line.startswith(" ") + one_line(line)


def _render_duration(record: RunRecord) -> str:
    ended_at = record.ended_at or record.started_at
    return render_seconds((ended_at - record.started_at).total_seconds())


def _facts(record: RunRecord, profile: ToldProfile) -> list[tuple[str, str]]:
    about = f" ({profile.description})" if profile.description else ""
    started = record.started_at.astimezone(profile.tzinfo)
    facts = [
        ("Profile", f"{record.profile}{about}"),
        ("Host", record.host),
        ("Store", record.store),
    ]
    if record.archive:
        facts.append(("Archive", record.archive))
    if record.task in _LOOKS:
        facts.append(("Files", f"{record.files:,} of {render_bytes(record.raw_bytes)}"))
    elif record.archive:
        facts += [("Size", _render_size(record)), ("Files", f"{record.files:,}")]
    facts += [
        ("Started", f"{started:%Y-%m-%d %H:%M:%S %Z}"),
        ("Duration", _render_duration(record)),
    ]
    if record.pruned:
        facts.append(("Pruned", render_count(len(record.pruned), "older backup")))
    return [(label, one_line(value)) for label, value in facts if value]


def _render_size(record: RunRecord) -> str:
    size = f"{render_bytes(record.archive_bytes)}, from {render_bytes(record.raw_bytes)} of files"
    if record.sent_bytes < record.archive_bytes:
        size += f"; {render_bytes(record.sent_bytes)} were sent"
    return size


def _plain_command(archive: str, profile: ToldProfile) -> str:
    """The shell command that unpacks the archive without this project."""
    store = profile.store
    if store is None:
        return ""
    unpack = "tar xz"
    if archive.endswith(ENCRYPTED_SUFFIX):
        unpack = "tar x --to-command='age -d -i key.txt' | tar xz"
    return one_line(store.kind.unpack_command(store, archive, unpack))


def _fill(templates: Path, name: str, view: MailView) -> str:
    """Fill in a template.

    An operator may have broken the template in any way, so every error is caught.

    Raises:
        NotifyError: the template is missing or fails; names its file and line.
    """
    import jinja2

    try:
        return _escape_surrogates(_environment(templates).get_template(name).render(mail=view))
    except jinja2.TemplateNotFound as error:
        raise NotifyError(f"{templates}/{error.name}: no such template, or not readable") from None
    except jinja2.TemplateSyntaxError as error:
        place = f"{templates}/{error.name}:{error.lineno}"
        raise NotifyError(f"{place}: {one_line(error.message or 'syntax error')}") from None
    except Exception as error:
        raise NotifyError(f"{_place_in(templates, name, error)}: {one_line(str(error))}") from None


def _environment(templates: Path) -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _place_in(templates: Path, name: str, error: Exception) -> str:
    """File and line of the template that raised the error; jinja2 puts them in the traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).parent == templates:
            return f"{frame.filename}:{frame.lineno}"
    return f"{templates}/{name}"


def _escape_surrogates(text: str) -> str:
    r"""Escape what is not UTF-8, such as a file name from a template: it must not stop the mail."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
