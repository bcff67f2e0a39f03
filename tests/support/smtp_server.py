"""A real mail server (aiosmtpd) on a free loopback port, with TLS, login and bad manners."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Manners = Literal[
    "good",
    "silent",  # takes the connection and never says a word
    "silent at data",  # takes the message and never answers for it
    "drops",  # ends each connection at once
    "drops at data",
    "drops at quit",  # after the message was accepted
    "echoes credentials",  # refuses a login with the very words that it got
    "busy",  # greets with 421
]
USERNAME = "backup@example.com"
# A silent server hangs up after so long: a client without a timeout then sees another error.
PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Certificates:
    """An authority of our own and a server certificate of it for 127.0.0.1, as PEM files."""

    authority: Path
    certificate: Path
    key: Path


@dataclass
class SmtpServer:
    """A running server, and what it saw.

    Attributes:
        messages: what was accepted, with envelope in X-MailFrom and X-RcptTo.
        logins: each (user, password) that was tried.
        tls: for each message, whether it came encrypted.
        greetings: the name that each EHLO gave.
        connections: how many there were.
    """

    host: str = "127.0.0.1"
    port: int = 0
    messages: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    tls: list[bool] = field(default_factory=list)
    greetings: list[str] = field(default_factory=list)
    connections: int = 0


def make_certificates(folder: Path, address: str = "127.0.0.1") -> Certificates:
    """Make an authority and a server certificate for the address, valid from now for a day."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    authority = (
        _certificate(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test mail server")])
    certificate = (
        _certificate(name, authority_name, key)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    made = Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


@contextlib.contextmanager
def start_smtp_server(
    security: Literal["none", "starttls", "tls"] = "none",
    *,
    certificates: Certificates | None = None,
    password: str = "",
    refuse: tuple[str, ...] = (),
    manners: Manners = "good",
) -> Iterator[SmtpServer]:
    """Run a server until the block ends.

    Args:
        certificates: needed for "starttls" and "tls".
        password: if set, a login is offered, also without TLS: USERNAME with this password.
        refuse: recipients that get a 550.
    """
    context = None
    if security != "none":
        assert certificates is not None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.certificate, certificates.key)
    server = SmtpServer()
    handler = _Handler(server, refuse, manners)

    def protocol() -> asyncio.BaseProtocol:
        server.connections += 1
        if manners in ("silent", "drops", "busy"):
            return _Rude(manners)
        return SMTP(
            handler,
            hostname="mail.example.com",
            tls_context=context if security == "starttls" else None,
            require_starttls=security == "starttls",
            authenticator=_authenticator(server, password, manners) if password else None,
            # aiosmtpd offers a login whenever it may: hide it where none is wanted.
            auth_require_tls=not password,
        )

    with _listening(protocol, context if security == "tls" else None) as port:
        server.port = port
        yield server


@contextlib.contextmanager
def _listening(
    protocol: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext | None
) -> Iterator[int]:
    """Serve on a free loopback port from a thread of its own."""
    loop = asyncio.new_event_loop()
    started: Future[int] = Future()

    async def serve() -> None:
        listener = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context)
        started.set_result(listener.sockets[0].getsockname()[1])

    def run() -> None:
        loop.create_task(serve())  # noqa: RUF006 - run_forever keeps it
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    # Clients that refuse a certificate or vanish are what some tests are about.
    loop.set_exception_handler(lambda _loop, _context: None)
    thread = threading.Thread(target=run, name="smtp-server")
    thread.start()
    try:
        yield started.result(timeout=30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)


class _Rude(asyncio.Protocol):
    """Speaks no SMTP at all, or just one line of it."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners

    def connection_made(self, transport: Any) -> None:
        if self._manners == "busy":
            transport.write(b"421 4.3.2 come back\r\n\tlater\r\n")
        if self._manners == "silent":
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, transport.close)
        else:
            transport.close()


class _Handler:
    def __init__(self, server: SmtpServer, refuse: tuple[str, ...], manners: Manners) -> None:
        self._server = server
        self._refuse = refuse
        self._manners = manners

    async def handle_EHLO(
        self, smtp: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self._server.greetings.append(hostname)
        session.host_name = hostname
        return responses

    async def handle_RCPT(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self._refuse:
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        if self._manners == "silent at data":
            await asyncio.sleep(PATIENCE_SECONDS)
            smtp.transport.abort()
        if self._manners == "drops at data":
            smtp.transport.abort()
            return "250 never sent"
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        message["X-MailFrom"] = envelope.mail_from
        message["X-RcptTo"] = ", ".join(envelope.rcpt_tos)
        self._server.messages.append(message)
        self._server.tls.append(smtp.transport.get_extra_info("sslcontext") is not None)
        return "250 accepted"

    async def handle_QUIT(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        if self._manners == "drops at quit":
            smtp.transport.abort()
        return "221 bye"


def _authenticator(
    server: SmtpServer, password: str, manners: Manners
) -> Callable[..., AuthResult]:
    def authenticate(
        smtp: SMTP, session: Session, envelope: Envelope, mechanism: str, login: LoginPassword
    ) -> AuthResult:
        tried = (login.login.decode(), login.password.decode())
        server.logins.append(tried)
        if manners == "echoes credentials":
            raw = base64.b64encode(b"\0" + login.login + b"\0" + login.password).decode()
            return AuthResult(
                success=False, handled=False, message=f"535 no login for {tried} ({raw})"
            )
        return AuthResult(success=tried == (USERNAME, password), handled=False)

    return authenticate


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    # The machine's clock decides what is valid, so it is read here.
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
