"""Hands finished messages to a mail server over SMTP, or says in one line why it cannot."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import parseaddr
from typing import TYPE_CHECKING

from backup_tasks.common.printable import one_line
from backup_tasks.errors import NotifyError

if TYPE_CHECKING:
    from backup_tasks.notify.email_table import EmailSettings

_REPLY_LENGTH = 300
_PORTS = 'security = "tls" is for port 465, "starttls" for port 587'


def send_mail(settings: EmailSettings, messages: Sequence[EmailMessage]) -> dict[str, str]:
    """Send the messages to `settings.to` over one connection.

    With "tls" and "starttls" only the greeting is sent before the connection is encrypted and the
    server's certificate is checked, so no password goes out in the clear.

    Returns:
        address -> the server's reply, for each refused recipient. The messages were accepted for
        all others.

    Raises:
        NotifyError: nothing more could be sent; the line names host:port and what to check.
        ProfileError: the password cannot be read.
    """
    password = settings.password.reveal() if settings.password else ""
    secrets = _spellings(settings.username or "", password)
    sender = parseaddr(settings.sender)[1]
    recipients = [parseaddr(address)[1] for address in settings.to]
    refused: dict[str, str] = {}
    try:
        smtp = _connect(settings)
        try:
            _log_in(smtp, settings, password)
            for message in messages:
                replies = smtp.send_message(message, sender, recipients)
                refused |= {to: _render_reply(*reply, secrets) for to, reply in replies.items()}
            # The server has answered for every message; a failing QUIT changes nothing.
            with contextlib.suppress(OSError):
                smtp.quit()
        finally:
            smtp.close()
    except (OSError, ValueError) as error:
        # "from None": the reply in the original error may repeat what we sent.
        reason = _explain(error, settings, secrets)
        raise NotifyError(f"{settings.host}:{settings.port}: {reason}") from None
    return refused


def _connect(settings: EmailSettings) -> smtplib.SMTP:
    """Open a connection that is ready for the login: encrypted unless security is "none"."""
    context = _tls_context(settings)
    # Without local_hostname smtplib asks the DNS for this machine's name, without a timeout.
    host, port, timeout = settings.host, settings.port, settings.timeout_seconds
    smtp: smtplib.SMTP
    if settings.security == "tls":
        smtp = smtplib.SMTP_SSL(host, port, "localhost", timeout=timeout, context=context)
    else:
        smtp = smtplib.SMTP(host, port, "localhost", timeout=timeout)
    try:
        smtp.local_hostname = _address_literal(smtp)
        smtp.ehlo_or_helo_if_needed()
        if settings.security == "starttls":
            if not smtp.has_extn("starttls"):
                raise smtplib.SMTPNotSupportedError("STARTTLS")
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
    except BaseException:
        smtp.close()
        raise
    return smtp


def _tls_context(settings: EmailSettings) -> ssl.SSLContext:
    """A context that checks certificates against the system's authorities and `ca_file`."""
    context = ssl.create_default_context()
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:
            reason = error.strerror if type(error) is not ssl.SSLError else "not a PEM certificate"
            raise NotifyError(f"notify.email.ca_file: {settings.ca_file}: {reason}") from None
    return context


def _address_literal(smtp: smtplib.SMTP) -> str:
    """Our own address for EHLO (RFC 5321, 4.1.3); no name of this machine is needed."""
    sock = smtp.sock
    if sock is None:
        return "localhost"
    address = str(sock.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if sock.family == socket.AF_INET6 else f"[{address}]"


def _log_in(smtp: smtplib.SMTP, settings: EmailSettings, password: str) -> None:
    if not settings.username:
        return
    if not (settings.username + password).isascii():
        raise ValueError("smtplib can log in only with ASCII: change notify.email.password")
    if not smtp.has_extn("auth"):
        raise smtplib.SMTPNotSupportedError("AUTH")
    smtp.login(settings.username, password)


def _explain(error: OSError | ValueError, settings: EmailSettings, secrets: Sequence[str]) -> str:
    """Say on one line what went wrong and what to check; smtplib's errors are OSErrors."""
    if isinstance(error, smtplib.SMTPException):
        return _explain_smtp(error, settings, secrets)
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved; check notify.email.host and this machine's DNS"
    if isinstance(error, TimeoutError):
        return _explain_silence(settings)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; check notify.email.host and port, and that the server runs"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({one_line(error.verify_message)}); check "
            "notify.email.host, or name the file with its authority in notify.email.ca_file"
        )
    if isinstance(error, ssl.SSLError):
        return f"no TLS with this server ({error.reason or error.strerror}); {_PORTS}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{one_line(reason)}; check notify.email.host, port and the network"


def _explain_smtp(
    error: smtplib.SMTPException, settings: EmailSettings, secrets: Sequence[str]
) -> str:
    if isinstance(error, smtplib.SMTPServerDisconnected):
        # smtplib turns every failed read into this; only its context shows a timeout.
        if isinstance(error.__context__, TimeoutError):
            return _explain_silence(settings)
        return f"the server closed the connection; check notify.email.port and security ({_PORTS})"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return _explain_unsupported(str(error))
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        replies = {to: _render_reply(*said, secrets) for to, said in error.recipients.items()}
        listed = ", ".join(f"{to} ({reply})" for to, reply in replies.items())
        return f"every recipient was refused: {listed}; check notify.email.to"
    if isinstance(error, smtplib.SMTPResponseException):
        reply = _render_reply(error.smtp_code, error.smtp_error, secrets)
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return (
                f"login as {one_line(settings.username or '')} refused ({reply}); "
                "check notify.email.username and password"
            )
        if isinstance(error, smtplib.SMTPSenderRefused):
            return f"sender {settings.sender} refused ({reply}); check notify.email.from"
        return f"the server refused: {reply}"
    return one_line(str(error))


def _explain_unsupported(what: str) -> str:
    if what == "STARTTLS":
        return f"the server offers no STARTTLS, so nothing was sent in the clear; {_PORTS}"
    if what == "AUTH":
        return (
            "the server offers no login, so the password was not sent; "
            "check notify.email.port and security, or leave username and password out"
        )
    return one_line(what)


def _explain_silence(settings: EmailSettings) -> str:
    return (
        f"no answer within {settings.timeout_seconds:g}s; check notify.email.host, port "
        f"and the firewall; {_PORTS}"
    )


def _render_reply(code: int, text: bytes | str, secrets: Sequence[str]) -> str:
    """The server's reply on one line, shortened, and without the password."""
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    said = _hide(" ".join(_hide(said, secrets).split()), secrets)
    return one_line(f"{code} {said}")[:_REPLY_LENGTH]


def _spellings(username: str, password: str) -> tuple[str, ...]:
    """The forms in which a server may echo the password, longest first."""
    if not password:
        return ()
    logins = (f"\0{username}\0{password}", f"{username}\0{password}", password)
    return (*(base64.b64encode(login.encode()).decode() for login in logins), password)


def _hide(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
