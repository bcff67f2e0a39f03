"""A store's URL: `s3://bucket/prefix/`, `file:///absolute/folder/`, `file:./in/the/project/`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from msgspec import Struct

StoreKind = Literal["s3", "directory"]

EXAMPLES = 'write "s3://bucket/prefix/", "file:///folder/" or "file:./folder/"'
# Wider than AWS's own rules: other S3 servers know upper case and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# S3's limit for a whole key is 1,024 bytes; our names need less than 100.
_LONGEST_PREFIX_BYTES = 900


class StoreUrl(Struct, frozen=True):
    """The parts of a store's URL.

    Attributes:
        kind: "s3", or "directory" for a file URL.
        bucket: "" for a directory.
        prefix: "" or text that ends with a slash; what every name in the bucket begins with.
        directory: absolute; the root folder for S3, where it means nothing.
    """

    kind: StoreKind
    bucket: str = ""
    prefix: str = ""
    directory: Path = Path("/")

    def render(self) -> str:
        """The one way to write it: absolute, with a slash at the end of a prefix or folder."""
        if self.kind == "s3":
            return f"s3://{self.bucket}/{self.prefix}"
        return f"file://{str(self.directory).rstrip('/')}/"


def parse_store_url(url: str, root: Path) -> StoreUrl:
    """The parts of a URL as a profile writes it; nothing in it is percent-decoded.

    Args:
        root: the project's folder, where `file:./` begins.

    Raises ValueError: one line that shows no more of the URL than is safe.
    """
    if not url.isprintable():
        raise ValueError("holds a character that cannot be printed")
    if url.startswith("s3://"):
        return _parse_s3(url.removeprefix("s3://"))
    if url.startswith("file:"):
        return StoreUrl("directory", directory=_parse_file(url.removeprefix("file:"), root))
    raise ValueError(f"should begin with s3:// or file://; {EXAMPLES}")


def _parse_s3(rest: str) -> StoreUrl:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ValueError(
            "should hold a bucket and a prefix only; keys and the server's address have keys "
            "of their own: access_key_id, secret_access_key, endpoint_url"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f'"{bucket}" is not the name of a bucket; {EXAMPLES}')
    segments = prefix.removesuffix("/").split("/") if prefix else []
    if any(segment in {"", ".", ".."} for segment in segments):
        raise ValueError(f'the prefix "{prefix}" holds an empty part, "." or ".."')
    prefix = "".join(f"{segment}/" for segment in segments)
    if len(prefix.encode()) > _LONGEST_PREFIX_BYTES:
        raise ValueError(f"the prefix is longer than {_LONGEST_PREFIX_BYTES} bytes")
    return StoreUrl("s3", bucket=bucket, prefix=prefix)


def _parse_file(rest: str, root: Path) -> Path:
    if rest.startswith("./"):
        return Path(os.path.normpath(root / rest))
    path = rest.removeprefix("//")
    if not path.startswith("/"):
        raise ValueError(
            f"a file URL is file:///folder/ (three slashes) or file:./folder/, {_found(rest)}"
        )
    path = os.path.normpath("/" + path.strip("/"))
    if path == "/":
        raise ValueError("the store needs a folder of its own, not /")
    return Path(path)


def _found(rest: str) -> str:
    return 'not with "~"' if "~" in rest else f'found "file:{rest}"'
