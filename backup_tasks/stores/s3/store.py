"""A store in an S3 bucket, on AWS or on any server that speaks S3, through boto3."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backup_tasks.errors import ObjectArchived, ReadRefused, StoreError
from backup_tasks.format.archive_names import CLAIM_NAME, is_staging_name
from backup_tasks.stores.base import (
    ArchiveWriter,
    PartLimits,
    StoredObject,
    Unfinished,
    bucket_place,
    changed,
)
from backup_tasks.stores.s3.answers import checked, pages, time_of_answer
from backup_tasks.stores.s3.bounds import bounded
from backup_tasks.stores.s3.client import (
    RUN_KEY,
    InFlight,
    S3Access,
    bare_etag,
    end_upload,
    list_uploads,
    read_body,
    refuse_taken_name,
    repeated,
)
from backup_tasks.stores.s3.errors import (
    BODY_FAILURES,
    FAILURES,
    Endpoint,
    UnfitAnswer,
    explain,
    explained,
    is_archived,
    is_refused,
    is_unknown_to_server,
    status_of,
)

if TYPE_CHECKING:
    from datetime import datetime

    from mypy_boto3_s3 import S3Client

    from backup_tasks.stores.s3.settings import S3Settings

MIB = 2**20
LIMITS = PartLimits(smallest=5 * MIB, largest=5 * 1024 * MIB, count=10_000)
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_CONNECTIONS = 16
_PAGE = 1000


class S3Store:
    """Objects directly under a prefix of a bucket; see `base.Store` for the contract.

    The first method that needs the client makes it. Before its first use the bucket is looked at
    once, because some servers create a missing bucket when it is written to.
    """

    limits = LIMITS
    can_copy = True
    can_rename = False
    salvage_is_sure = True

    def __init__(self, settings: S3Settings) -> None:
        self.url = settings.url
        self.bucket, _, self.prefix = settings.url.removeprefix("s3://").partition("/")
        self._settings = settings
        self._opening = threading.Lock()
        self._in_flight = InFlight()

    @property
    def access(self) -> S3Access:
        """The client and its settings; the first call makes it.

        Raises:
            StoreError: the bucket cannot be opened, or the settings of boto3 are damaged.
            ProfileError: a secret cannot be read.
        """
        with self._opening:
            return self._access

    @cached_property
    def _access(self) -> S3Access:
        settings = self._settings
        endpoint = settings.endpoint_url or ""
        region = settings.region or ""
        place = Endpoint(self.url, self.bucket, _shown(endpoint), region)
        client = make_client(settings, endpoint, place)
        access = S3Access(
            client,
            place,
            self.bucket,
            self.prefix,
            settings.storage_class or "STANDARD",
            settings.max_attempts,
        )
        # Not HeadBucket: its errors have no body, and so do not say what is wrong with the keys.
        with explained(place, "open the bucket"):
            access.ask_for_reason()
        return access

    @property
    def place(self) -> str:
        return bucket_place(self._settings.endpoint_url or "", self.url)

    @property
    def copies_are_sure(self) -> bool:
        return "_access" not in self.__dict__ or self._access.pins.copies

    def after_fork(self) -> None:
        if "_access" in self.__dict__:
            self._access.client.close()  # closes descriptors; it opens new ones at need

    def list_objects(self) -> list[StoredObject]:
        with explained(self.access.place, "list the backups"):
            found = [
                StoredObject(
                    item["Key"].removeprefix(self.prefix),
                    item["Size"],
                    item["LastModified"],
                    bare_etag(item["ETag"]),
                )
                for item in self._listed(Delimiter="/")
            ]
            names = {one.name for one in found}
            if len(names) < len(found):
                raise UnfitAnswer(trouble="the list holds the same name twice")
        # Some consoles create an object with an empty name to mark a "folder".
        return sorted(
            (one for one in found if one.name not in ("", CLAIM_NAME) and "/" not in one.name),
            key=lambda one: one.name,
        )

    def names_in_the_way(self) -> set[str]:
        return set()

    def keys_below(self) -> Iterator[str]:
        """Every key under the prefix, those with more slashes included.

        Raises:
            StoreError: they cannot be listed.
        """
        with explained(self.access.place, "look for other objects"):
            for item in self._listed():
                yield item["Key"]

    def _listed(self, **how: Any) -> Iterator[Any]:
        ask = partial(
            self.access.client.list_objects_v2,
            Bucket=self.bucket,
            Prefix=self.prefix,
            MaxKeys=_PAGE,
            **how,
        )
        for page in pages(ask, {"ContinuationToken": "NextContinuationToken"}):
            yield from page.get("Contents", [])

    def store_time(self) -> datetime | None:
        access = self.access
        with explained(access.place, "ask for the time"):
            return time_of_answer(access.ask_for_reason())

    def stat(self, name: str) -> StoredObject:
        return self.access.head(name)[0]

    def read_range(self, source: StoredObject, start: int, length: int) -> bytes:
        if length == 0:  # S3 has no empty range
            return b""
        access = self.access
        pinned = access.pins.reads

        def read() -> bytes:
            return read_body(access, source, start, length, pinned=pinned)

        try:
            return repeated(read, access.max_attempts, threading.Event())
        except BODY_FAILURES as error:
            no_match = status_of(error) == 412
            if no_match or isinstance(error, UnfitAnswer):
                if not access.is_as_it_was(source):
                    raise changed(self.url, source.name) from error
                if no_match and pinned:
                    access.pins.reads = False  # unpinned: each answer's ETag is compared
                    return self.read_range(source, start, length)
            doing = f"read {source.name} at byte {start:,}"
            if no_match or is_refused(error):
                kind = ObjectArchived if is_archived(error) else ReadRefused
                raise kind(str(explain(error, access.place, doing))) from error
            raise explain(error, access.place, doing, source.name) from error

    def write(self, name: str, *, in_flight_bytes: int) -> ArchiveWriter:
        from backup_tasks.stores.s3.writer import S3Writer

        access = self.access
        refuse_taken_name(access, name)
        run_id = secrets.token_hex(16)
        options: dict[str, Any] = {"ContentType": _content_type(name)}
        # STANDARD is not sent: some servers do not know the parameter. A staging object is copied
        # from and soon deleted, so it must not go to an archive class.
        if access.storage_class != "STANDARD" and not is_staging_name(name):
            options["StorageClass"] = access.storage_class
        with explained(access.place, f"start {name}"):
            answer = access.client.create_multipart_upload(
                Bucket=self.bucket, Key=access.key(name), Metadata={RUN_KEY: run_id}, **options
            )
        upload_id = answer["UploadId"]
        return S3Writer(access, name, upload_id, run_id, self._in_flight, in_flight_bytes)

    def read_small(self, name: str, most_bytes: int) -> tuple[bytes, StoredObject]:
        from backup_tasks.stores.s3.small_objects import read_small

        return read_small(self.access, name, most_bytes)

    def put_small(self, name: str, body: bytes, *, replaces: StoredObject | None) -> StoredObject:
        from backup_tasks.stores.s3.small_objects import put_small

        return put_small(self.access, name, body, replaces)

    def delete(self, name: str) -> None:
        access = self.access
        with explained(access.place, f"delete {name}"):
            access.client.delete_object(Bucket=self.bucket, Key=access.key(name))

    def list_unfinished(self) -> list[Unfinished]:
        access = self.access
        try:
            return list_uploads(access, "", _PAGE)
        except FAILURES as error:
            # A server that cannot list uploads must end them itself; no backup fails over this.
            if is_unknown_to_server(error):
                return []
            raise explain(error, access.place, "list unfinished uploads") from error

    def end_unfinished(self, upload: Unfinished) -> None:
        end_upload(self.access, upload.name, upload.upload_id)

    def salvage(self, upload: Unfinished) -> StoredObject | None:
        from backup_tasks.stores.s3.salvage import salvage_upload

        return salvage_upload(self.access, upload)


def make_client(settings: S3Settings, endpoint: str, place: Endpoint) -> S3Client:
    """Make the boto3 client that a profile asks for.

    Args:
        endpoint: "" for AWS.

    Raises:
        StoreError: the endpoint is no address, or the settings of boto3 are damaged.
        ProfileError: a secret cannot be read.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    from backup_tasks.stores.s3.models import use_quick_loader

    keys = (settings.access_key_id, settings.secret_access_key, settings.session_token)
    key_id, secret, token = (key.reveal() if key else None for key in keys)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        tcp_keepalive=True,
        max_pool_connections=_CONNECTIONS,
        # boto3's newer defaults break Backblaze B2, Google and older servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": settings.addressing_style,
            # Content-MD5 is signed, and binds the bytes. Hashing them once more would only cost
            # time: half a second a gigabyte here, and as much in the server.
            "payload_signing_enabled": False,
        },
    )
    try:
        with explained(place, "prepare the connection"):
            # A session of our own: boto3's default session is not thread-safe.
            core = botocore.session.get_session()
            use_quick_loader(core)
            region = settings.region or None
            session = boto3.session.Session(key_id, secret, token, region, core)
            client = session.client("s3", endpoint_url=endpoint or None, config=config)
            return checked(bounded(client))
    except ValueError as error:
        if "endpoint" in str(error).lower():
            raise StoreError(
                f"{place.url}: {place.endpoint} is not the address of a server; write "
                'for example "https://s3.example.com"'
            ) from None
        raise StoreError(
            f"{place.url}: could not prepare the connection: the settings of boto3 are damaged; "
            "see ~/.aws/config and what it names"
        ) from error


def _shown(endpoint: str) -> str:
    """The server's address, without user, password and path, which may be secret."""
    if not endpoint:
        return "Amazon S3"
    parts = urlsplit(endpoint)
    if not parts.netloc:
        return "what store.endpoint_url holds"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _content_type(name: str) -> str:
    return "application/gzip" if name.endswith(".gz") else "application/octet-stream"
