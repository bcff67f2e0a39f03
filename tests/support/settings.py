"""Settings of stores as tests need them, without a profile around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.conftest import S3Bucket


@dataclass(frozen=True)
class Plain:
    """A secret that is none."""

    text: str

    def reveal(self) -> str:
        return self.text


@dataclass(frozen=True)
class FakeSettings:
    """What `open_store` needs; see `backup_tasks.stores.s3.settings.S3Settings`."""

    url: str
    region: str | None = "us-east-1"
    endpoint_url: str | None = None
    storage_class: str | None = "STANDARD"
    access_key_id: Plain | None = None
    secret_access_key: Plain | None = None
    session_token: Plain | None = None
    max_attempts: int = 2
    addressing_style: Literal["auto", "path", "virtual"] = "path"


def s3_settings(bucket: S3Bucket, /, prefix: str = "backups/", **others: Any) -> FakeSettings:
    """Settings for a bucket of the test server; `others` replace single ones."""
    name = others.pop("bucket", bucket.bucket)
    return FakeSettings(
        **{
            "url": f"s3://{name}/{prefix}",
            "endpoint_url": bucket.endpoint,
            "access_key_id": Plain(bucket.access_key),
            "secret_access_key": Plain(bucket.secret_key),
            **others,
        }
    )
