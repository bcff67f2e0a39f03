"""Whether a mail goes out, through a real mail server, and what is told when it does not."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from backup_tasks.common.paths import Paths
from backup_tasks.errors import Interrupted, NotifyError, ProfileError, UsageError
from backup_tasks.journal.run_record import Notification, Problem, RunRecord
from backup_tasks.notify import smtp
from backup_tasks.notify.tell import notify, send_test
from backup_tasks.profile.model import Profile
from tests.support.smtp_server import (
    USERNAME,
    Certificates,
    SmtpServer,
    make_certificates,
    start_smtp_server,
)

NOW = datetime(2025, 6, 12, 2, 0, 36, tzinfo=UTC)
CANARY = "canary-Pa55 word\\"
DONE = RunRecord(
    task="backup",
    profile="prod",
    host="web1",
    store="s3://my-bucket/backups/",
    started_at=NOW - timedelta(seconds=35),
    ended_at=NOW,
    archive="2025-06-12_0200-backup.tar.gz",
    archive_bytes=120_000_000,
)
FAILED = structs.replace(DONE, result="failure", archive="", error="s3://my-bucket: no such bucket")
WARNED = structs.replace(DONE, warnings=["prune: access denied"])
INCOMPLETE = structs.replace(
    DONE, result="incomplete", problems=[Problem("/a", "Permission denied")]
)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with start_smtp_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", CANARY)


def profile_for(port: int, *, login: bool = False, **email: Any) -> Profile:
    """A profile that mails through that port of this machine; one second of patience."""
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "from": "Backup <backup@example.com>",
        "to": ["admin@example.com"],
        "timeout_seconds": 1,
    }
    if login:
        settings |= {"username": USERNAME, "password": {"env": "SMTP_PASSWORD"}}
    return Profile.model_validate(
        {
            "name": "prod",
            "path": Path("/etc/backup-tasks/prod.toml"),
            "backup": {"sources": ["/etc"], "timezone": "Europe/Stockholm"},
            "store": {"url": "s3://my-bucket/backups/"},
            "notify": {"email": settings | email},
        }
    )


def only_error(notifications: list[Notification]) -> str:
    """The error of the only attempt, checked for what every error promises."""
    assert len(notifications) == 1
    error = notifications[0].error
    assert error.isprintable()
    assert CANARY not in str([structs.asdict(notification) for notification in notifications])
    return error


# --- who is told ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "told"),
    [
        (["success", "failure"], [DONE, WARNED, INCOMPLETE, FAILED]),
        (["success"], [DONE, WARNED, INCOMPLETE]),
        (["failure"], [WARNED, INCOMPLETE, FAILED]),
        ([], []),
    ],
    ids=lambda value: "+".join(value) if value and isinstance(value[0], str) else "",
)
def test_a_run_is_mailed_to_those_who_asked_for_its_kind(
    server: SmtpServer, paths: Paths, on: list[str], told: list[RunRecord]
) -> None:
    profile = profile_for(server.port, on=on)
    for record in (DONE, WARNED, INCOMPLETE, FAILED):
        sent = notify(record, profile, paths)
        wanted = [Notification("email", "admin@example.com")] if record in told else []
        assert sent == wanted
    assert [message["X-Backup-Result"] for message in server.messages] == [
        record.result for record in told
    ]


def test_a_profile_without_mail_tells_nobody(paths: Paths) -> None:
    profile = profile_for(1)
    silent = profile.model_copy(
        update={"notify": profile.notify.model_copy(update={"email": None})}
    )
    assert notify(DONE, silent, paths) == []


def test_the_mail_arrives_with_text_and_html_for_every_recipient(
    server: SmtpServer, paths: Paths
) -> None:
    profile = profile_for(server.port, to=["Ann <ann@example.com>", "bo@example.com"])
    sent = notify(DONE, profile, paths)
    assert sent == [Notification("email", "Ann <ann@example.com>, bo@example.com")]
    (message,) = server.messages
    assert message["X-MailFrom"] == "backup@example.com"
    assert message["X-RcptTo"] == "ann@example.com, bo@example.com"
    assert message["Subject"] == "[backup] prod on web1: done, 120MB in 35s"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "text/html",
    ]


def test_the_greeting_does_not_tell_this_machines_name(server: SmtpServer, paths: Paths) -> None:
    notify(DONE, profile_for(server.port), paths)
    assert server.greetings == ["[127.0.0.1]"]
    assert socket.gethostname() not in str(server.messages[0]["Message-ID"])


# --- encryption and login ------------------------------------------------------------------


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_with_tls_the_login_and_the_mail_go_out_encrypted(
    certificates: Certificates, paths: Paths, security: Any
) -> None:
    with start_smtp_server(security, certificates=certificates, password=CANARY) as server:
        profile = profile_for(
            server.port, login=True, security=security, ca_file=str(certificates.authority)
        )
        assert notify(DONE, profile, paths) == [Notification("email", "admin@example.com")]
    assert server.logins == [(USERNAME, CANARY)]
    assert server.tls == [True]


def test_without_tls_a_login_on_this_machine_works(paths: Paths) -> None:
    with start_smtp_server(password=CANARY) as server:
        sent = notify(DONE, profile_for(server.port, login=True), paths)
    assert sent == [Notification("email", "admin@example.com")]
    assert server.logins == [(USERNAME, CANARY)]
    assert server.tls == [False]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_untrusted_certificate_gets_neither_password_nor_mail(
    certificates: Certificates, paths: Paths, security: Any
) -> None:
    with start_smtp_server(security, certificates=certificates, password=CANARY) as server:
        profile = profile_for(server.port, login=True, security=security)
        error = only_error(notify(DONE, profile, paths))
    assert error.startswith(f"127.0.0.1:{server.port}: the server's certificate is not trusted")
    assert "notify.email.ca_file" in error
    assert (server.logins, server.messages) == ([], [])


def test_a_certificate_for_another_host_is_refused(tmp_path: Path, paths: Paths) -> None:
    other = make_certificates(tmp_path, address="192.0.2.1")
    with start_smtp_server("tls", certificates=other, password=CANARY) as server:
        profile = profile_for(server.port, login=True, security="tls", ca_file=str(other.authority))
        error = only_error(notify(DONE, profile, paths))
    assert "not valid for '127.0.0.1'" in error
    assert server.logins == []


def test_a_server_without_starttls_never_gets_the_password(paths: Paths) -> None:
    with start_smtp_server(password=CANARY) as server:
        profile = profile_for(server.port, login=True, security="starttls")
        error = only_error(notify(DONE, profile, paths))
    assert "offers no STARTTLS" in error
    assert (server.logins, server.messages) == ([], [])


def test_a_wrong_password_is_told_without_showing_it(paths: Paths) -> None:
    with start_smtp_server(password="another") as server:
        error = only_error(notify(DONE, profile_for(server.port, login=True), paths))
    assert error == (
        f"127.0.0.1:{server.port}: login as {USERNAME} refused "
        "(535 5.7.8 Authentication credentials invalid); "
        "check notify.email.username and password"
    )


def test_a_server_that_repeats_the_password_does_not_bring_it_into_the_record(
    paths: Paths,
) -> None:
    with start_smtp_server(password="another", manners="echoes credentials") as server:
        # One without a backslash, which the server would write differently.
        plain = CANARY.removesuffix("\\")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SMTP_PASSWORD", plain)
            error = only_error(notify(DONE, profile_for(server.port, login=True), paths))
    assert server.logins[0] == (USERNAME, plain)
    assert "535" in error
    assert "***" in error
    assert plain not in error
    for spelling in (f"\0{USERNAME}\0{plain}", plain):
        assert base64.b64encode(spelling.encode()).decode() not in error


def test_a_server_without_login_is_told_so(server: SmtpServer, paths: Paths) -> None:
    error = only_error(notify(DONE, profile_for(server.port, login=True), paths))
    assert "the server offers no login" in error


def test_a_password_beyond_ascii_is_told_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "lösenord-åäö")
    with start_smtp_server(password="lösenord-åäö") as server:
        error = only_error(notify(DONE, profile_for(server.port, login=True), paths))
    assert "notify.email.password" in error
    assert "lösen" not in error


def test_a_missing_secret_costs_the_mail_only(
    monkeypatch: pytest.MonkeyPatch, server: SmtpServer, paths: Paths
) -> None:
    monkeypatch.delenv("SMTP_PASSWORD")
    error = only_error(notify(DONE, profile_for(server.port, login=True), paths))
    assert "SMTP_PASSWORD" in error
    assert server.connections == 0


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("no certificate", "not a PEM certificate")]
)
def test_a_bad_ca_file_is_named(
    tmp_path: Path, server: SmtpServer, paths: Paths, content: str | None, said: str
) -> None:
    file = tmp_path / "authority.pem"
    if content:
        file.write_text(content)
    profile = profile_for(server.port, security="tls", ca_file=str(file))
    error = only_error(notify(DONE, profile, paths))
    assert error.startswith(f"notify.email.ca_file: {file}: {said}")


# --- servers that do not do their part -------------------------------------------------------


def test_a_refused_recipient_is_told_and_the_others_get_their_mail(paths: Paths) -> None:
    with start_smtp_server(refuse=("gone@example.com",)) as server:
        profile = profile_for(server.port, to=["admin@example.com", "gone@example.com"])
        sent, refused = notify(DONE, profile, paths)
    assert sent == Notification("email", "admin@example.com")
    assert refused.to == "gone@example.com"
    assert refused.error == (
        f"127.0.0.1:{server.port}: refused (550 5.1.1 no such mailbox); check notify.email.to"
    )
    assert len(server.messages) == 1


def test_when_every_recipient_is_refused_each_is_named(paths: Paths) -> None:
    with start_smtp_server(refuse=("admin@example.com",)) as server:
        error = only_error(notify(DONE, profile_for(server.port), paths))
    assert "admin@example.com (550 5.1.1 no such mailbox)" in error


def test_a_refused_connection_names_host_and_port(paths: Paths) -> None:
    with socket.socket() as taken:
        # Bound but not listening: nobody else can answer there.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = only_error(notify(DONE, profile_for(port), paths))
    assert error.startswith(f"127.0.0.1:{port}: connection refused; check notify.email.host")


def test_an_unknown_host_is_told(paths: Paths) -> None:
    error = only_error(notify(DONE, profile_for(25, host="mail.invalid"), paths))
    assert error.startswith("mail.invalid:25: the name cannot be resolved")


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_a_silent_server_costs_the_timeout_and_no_more(paths: Paths, security: str) -> None:
    with start_smtp_server(manners="silent") as server:
        error = only_error(notify(DONE, profile_for(server.port, security=security), paths))
    assert error.startswith(f"127.0.0.1:{server.port}: no answer within 1s")


def test_a_server_that_never_answers_for_the_message_is_told(paths: Paths) -> None:
    with start_smtp_server(manners="silent at data") as server:
        error = only_error(notify(DONE, profile_for(server.port), paths))
    assert "no answer within 1s" in error


@pytest.mark.parametrize("manners", ["drops", "drops at data"])
def test_a_server_that_hangs_up_is_told(paths: Paths, manners: Any) -> None:
    with start_smtp_server(manners=manners) as server:
        error = only_error(notify(DONE, profile_for(server.port), paths))
    assert "the server closed the connection" in error


def test_a_busy_server_is_quoted_on_one_line(paths: Paths) -> None:
    with start_smtp_server(manners="busy") as server:
        error = only_error(notify(DONE, profile_for(server.port), paths))
    assert "421 4.3.2 come back" in error


def test_a_mail_that_was_accepted_counts_as_sent_whatever_follows(paths: Paths) -> None:
    with start_smtp_server(manners="drops at quit") as server:
        sent = notify(DONE, profile_for(server.port), paths)
    assert sent == [Notification("email", "admin@example.com")]
    assert len(server.messages) == 1


def test_tls_asked_of_a_server_without_it_names_the_usual_ports(
    server: SmtpServer, paths: Paths
) -> None:
    error = only_error(notify(DONE, profile_for(server.port, security="tls"), paths))
    assert "no TLS with this server" in error
    assert "465" in error


# --- whatever else goes wrong ----------------------------------------------------------------


def test_a_broken_template_costs_the_mail_only(
    tmp_path: Path, server: SmtpServer, paths: Paths
) -> None:
    broken = structs.replace(paths, templates=tmp_path / "nowhere")
    error = only_error(notify(DONE, profile_for(server.port), broken))
    assert f"{tmp_path}/nowhere/backup.subject.j2: no such template" in error


def test_a_bug_while_sending_costs_the_mail_only_and_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    def fail(*_: object) -> None:
        raise AttributeError(CANARY)

    monkeypatch.setattr(smtp, "send_mail", fail)
    error = only_error(notify(DONE, profile_for(1), paths))
    assert error == "the mail was not sent: unexpected AttributeError"


def test_a_signal_while_sending_still_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(smtp, "send_mail", interrupt)
    with pytest.raises(Interrupted):
        notify(DONE, profile_for(1), paths)


# --- notify-test -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "kinds"),
    [
        (["success", "failure"], ["success", "incomplete", "failure"]),
        (["failure"], ["incomplete", "failure"]),
    ],
)
def test_send_test_sends_a_marked_sample_of_each_kind_over_one_connection(
    server: SmtpServer, paths: Paths, on: list[str], kinds: list[str]
) -> None:
    [sent] = send_test(profile_for(server.port, on=on), paths, NOW)
    assert sent == Notification("email", "admin@example.com")
    assert [message["X-Backup-Result"] for message in server.messages] == kinds
    for message in server.messages:
        assert message["Subject"].startswith("[backup] TEST: prod on ")
        for part in message.iter_parts():
            assert "This is a test" in part.get_content()
    assert server.connections == 1


def test_send_test_raises_one_line_when_it_cannot_deliver(paths: Paths) -> None:
    with start_smtp_server(password="another") as server:
        profile = profile_for(server.port, login=True)
        with pytest.raises(NotifyError, match=f"127.0.0.1:{server.port}: login as") as caught:
            send_test(profile, paths, NOW)
    assert str(caught.value).isprintable()
    # Nor does the chain of errors, which a traceback would print.
    assert caught.value.__suppress_context__
    assert CANARY not in str(caught.value)


def test_send_test_raises_when_one_recipient_is_refused(paths: Paths) -> None:
    with start_smtp_server(refuse=("gone@example.com",)) as server:
        profile = profile_for(server.port, to=["admin@example.com", "gone@example.com"])
        with pytest.raises(NotifyError, match=r"refused for gone@example\.com \(550"):
            send_test(profile, paths, NOW)


def test_send_test_without_a_password_raises_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    monkeypatch.delenv("SMTP_PASSWORD")
    with pytest.raises(ProfileError, match="SMTP_PASSWORD"):
        send_test(profile_for(1, login=True), paths, NOW)


def test_send_test_refuses_a_profile_that_sends_no_mail(paths: Paths) -> None:
    profile = profile_for(1)
    silent = profile.model_copy(
        update={"notify": profile.notify.model_copy(update={"email": None})}
    )
    with pytest.raises(UsageError, match=r"prod has no \[notify\.email\]"):
        send_test(silent, paths, NOW)
    with pytest.raises(UsageError, match=r"nothing in notify\.email\.on"):
        send_test(profile_for(1, on=[]), paths, NOW)
