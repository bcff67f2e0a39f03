"""Stores in a bucket of S3, or of an S3-compatible server: `s3://bucket/prefix/`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, PlainValidator
from pydantic.json_schema import WithJsonSchema

from backup_tasks.errors import ProfileError
from backup_tasks.keys.secret import Placed, Secret, checked_variable
from backup_tasks.keys.secret_schema import ENV_JSON_SCHEMA
from backup_tasks.stores.base import Store, bucket_place
from backup_tasks.stores.kind import ObeyedFile, StoreTable
from backup_tasks.stores.s3.settings import S3Settings

# Wider than AWS's own rules: other S3 servers allow upper case and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# S3's limit for a whole key is 1,024 bytes; our names need less than 100.
_LONGEST_PREFIX_BYTES = 900
# The files in which boto3 looks for keys, servers and programs that give keys: the variable that
# names the file, and its usual path.
_BOTO_SETTINGS = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("BOTO_CONFIG", "~/.boto"),
    ("", "~/.aws/models"),
)


def checked_endpoint(url: str) -> str:
    """The address of an S3 server, without a slash at its end.

    Raises:
        ValueError: the text is not such an address; the error shows no password.
    """
    match = re.fullmatch(r"https?://([^/?#\s]+)/?", url)
    if not match or not url.isprintable():
        raise ValueError('should be the address of a server, such as "https://s3.example.com"')
    if "@" in match[1]:
        raise ValueError("should hold no user name and password")
    if not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", match[1]):
        raise ValueError(
            f'"{match[1]}" should be a host and maybe a port, such as "127.0.0.1:8333"'
        )
    return url.rstrip("/")


def _endpoint(value: object) -> str | Secret:
    raw = value.value if isinstance(value, Placed) else value
    if isinstance(raw, str):
        return checked_endpoint(raw) if raw else ""
    if isinstance(raw, Mapping) and set(raw) == {"env"}:
        checked_variable(raw["env"])
        return Secret.parse(value)
    raise ValueError('should be an address in quotes or { env = "NAME" }')


def _storage_class(name: str) -> str:
    if name in {"GLACIER", "DEEP_ARCHIVE"}:
        raise ValueError(
            f"{name} cannot be read back without hours of thawing, so list, verify and restore "
            "would fail; choose STANDARD, STANDARD_IA, INTELLIGENT_TIERING or GLACIER_IR"
        )
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise ValueError(f'"{name}" is not a storage class such as "STANDARD" or "STANDARD_IA"')
    return name


def _region(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]*", name):
        raise ValueError(f'"{name}" is not a region such as "eu-north-1"')
    return name


_Endpoint = Annotated[
    str | Secret,
    PlainValidator(_endpoint),
    WithJsonSchema({"oneOf": [{"type": "string"}, ENV_JSON_SCHEMA]}),
]


class S3Table(StoreTable):
    """The keys of [store] that apply to S3 alone."""

    region: Annotated[str, AfterValidator(_region)] = Field(
        default="", description="S3 only. Empty: as boto3 finds it."
    )
    endpoint: _Endpoint = Field(
        default="",
        alias="endpoint_url",
        description='S3 only. The address of an S3-compatible server, or { env = "NAME" }. '
        "Empty: AWS.",
    )
    storage_class: Annotated[str, AfterValidator(_storage_class)] = Field(
        default="STANDARD", description="S3 only. The storage class of new archives."
    )
    access_key_id: Secret | None = Field(
        default=None, description="S3 only. Default: boto3's own chain (environment, files, role)."
    )
    secret_access_key: Secret | None = Field(
        default=None, description="S3 only. Needed with access_key_id."
    )
    session_token: Secret | None = Field(
        default=None, description="S3 only. For temporary keys, together with both others."
    )
    max_attempts: int = Field(
        default=8, ge=1, le=20, description="S3 only. How often a request is tried."
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="S3 only. Where a request names the bucket."
    )

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        pair = ("access_key_id", "secret_access_key")
        for key, other in (pair, pair[::-1]):
            if key in raw and other not in raw:
                yield key, f"needs {other} as well"
        if "session_token" in raw and not any(key in raw for key in pair):
            yield "session_token", "needs access_key_id and secret_access_key as well"

    @property
    def endpoint_url(self) -> str:
        """The server's address, "" for AWS.

        Raises:
            ProfileError: the variable of `env` is not set, or holds no such address.
        """
        if isinstance(self.endpoint, str):
            return self.endpoint
        text = self.endpoint.reveal()
        try:
            return checked_endpoint(text)
        except ValueError as error:
            raise self.endpoint.problem(str(error)) from None


class S3Kind:
    """See `StoreKind`."""

    name = "s3"
    scheme = "s3://"
    examples = ("s3://bucket/prefix/",)
    url_help = "s3://bucket/prefix/"
    table = S3Table

    def fits(self, url: str) -> bool:
        """As `StoreKind.fits`."""
        return url.startswith(self.scheme)

    def normalize(self, url: str, root: Path) -> str:
        """As `StoreKind.normalize`."""
        del root
        bucket, _, prefix = url.removeprefix(self.scheme).partition("/")
        if "@" in bucket or ":" in bucket:
            raise ValueError(
                "should hold a bucket and a prefix only; keys and the server's address have keys "
                "of their own: access_key_id, secret_access_key, endpoint_url"
            )
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f'"{bucket}" is not the name of a bucket; write "{self.examples[0]}"')
        segments = prefix.removesuffix("/").split("/") if prefix else []
        if any(segment in {"", ".", ".."} for segment in segments):
            raise ValueError(f'the prefix "{prefix}" holds an empty part, "." or ".."')
        prefix = "".join(f"{segment}/" for segment in segments)
        if len(prefix.encode()) > _LONGEST_PREFIX_BYTES:
            raise ValueError(f"the prefix is longer than {_LONGEST_PREFIX_BYTES} bytes")
        return f"{self.scheme}{bucket}/{prefix}"

    def open(self, settings: StoreTable, root: Path, check_place: Callable[[], None]) -> Store:
        """As `registry.open_store`."""
        del root, check_place
        # Imported late: botocore alone takes longer than a whole run on a folder.
        from backup_tasks.stores.s3.store import S3Store

        return S3Store(cast(S3Settings, settings))

    def place(self, settings: StoreTable) -> str:
        """As `StoreKind.place`."""
        try:
            return bucket_place(cast(S3Settings, settings).endpoint_url or "", settings.url)
        except ProfileError:  # the environment variable of the address is not set here
            return ""

    def folder(self, settings: StoreTable) -> None:
        """None: the store lies elsewhere."""

    def unpack_command(self, settings: StoreTable, name: str, unpack: str) -> str:
        """As `StoreKind.unpack_command`; the program `aws` fetches the archive."""
        address = shlex.quote(settings.url + name)
        endpoint = cast(S3Settings, settings).endpoint_url
        where = f" --endpoint-url {shlex.quote(endpoint)}" if endpoint else ""
        return f"aws s3 cp {address} -{where} | {unpack}"

    def obeyed_files(self) -> Iterable[ObeyedFile]:
        """The settings of boto3, which may name a program to run.

        Under `sudo -E` HOME may be another user's.
        """
        for variable, usual in _BOTO_SETTINGS:
            named = os.environ.get(variable, "")
            path = Path(os.path.expanduser(named or usual))
            remedy = f"set {variable if named else 'HOME'}, or remove that file"
            yield ObeyedFile(path, "boto3", remedy)


KIND = S3Kind()
