"""The lifecycle configuration of a bucket: read it, replace it, and see what it would hit."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from backup_tasks.common.printable import printable
from backup_tasks.errors import StoreError
from backup_tasks.format.archive_names import CLAIM_NAME, is_backup_name, is_staging_name
from backup_tasks.prune.lifecycle_rules import LifecyclePlan, Rule, comparable

if TYPE_CHECKING:
    from backup_tasks.stores.s3.store import S3Store

_READ_BACK_TRIES = 5
_READ_BACK_PAUSE_SECONDS = 1.0


class BucketLifecycle(Struct, frozen=True):
    """What a bucket has now.

    Attributes:
        rules: as boto3 gives them, in the server's order.
        options: settings of the whole configuration, to be written back unchanged.
        is_versioned: None when the server does not say.
        unread: elements of the server's answer that boto3 passed over.
    """

    rules: tuple[Rule, ...]
    options: dict[str, Any]
    is_versioned: bool | None
    unread: tuple[str, ...] = ()


def read_lifecycle(store: S3Store) -> BucketLifecycle:
    """The bucket's rules, and whether it keeps versions. Raises StoreError."""
    from backup_tasks.stores.s3.errors import FAILURES, code_of

    client = store.access.client
    answer: dict[str, Any] = {}
    unread: set[str] = set()
    try:
        with _watched(client, unread):
            answer.update(client.get_bucket_lifecycle_configuration(Bucket=store.bucket))
    except FAILURES as error:
        if code_of(error) != "NoSuchLifecycleConfiguration":
            raise _refused(error, store, "read the lifecycle rules") from error
    is_versioned: bool | None = None
    with contextlib.suppress(*FAILURES):  # only a note depends on it
        # Also when suspended: older versions stay, and so does what expires.
        is_versioned = "Status" in client.get_bucket_versioning(Bucket=store.bucket)
    answer.pop("ResponseMetadata", None)
    rules = tuple(answer.pop("Rules", ()))
    return BucketLifecycle(rules, answer, is_versioned, tuple(sorted(unread)))


def install_lifecycle(store: S3Store, found: BucketLifecycle, plan: LifecyclePlan) -> None:
    """Write the plan's rules and read them back.

    Whatever somebody else writes between our reading and writing is lost: S3 has no way to
    prevent that. Raises StoreError, also if the bucket then has other rules than were written.
    """
    from backup_tasks.stores.s3.errors import FAILURES

    if found.unread:
        raise StoreError(
            f"{store.url}: not installed: the bucket's rules hold {', '.join(found.unread)}, which "
            "boto3 does not know and would drop; upgrade boto3, or write the rules in the console"
        )
    merged: list[Any] = list(plan.merged)
    try:
        store.access.client.put_bucket_lifecycle_configuration(
            Bucket=store.bucket, LifecycleConfiguration={"Rules": merged}, **found.options
        )
    except FAILURES as error:
        raise _refused(error, store, "write the lifecycle rules") from error
    for attempt in range(_READ_BACK_TRIES):
        if attempt:  # AWS may show the former rules for a moment
            time.sleep(_READ_BACK_PAUSE_SECONDS)
        written = read_lifecycle(store).rules
        if _same_rules(written, plan.merged):
            return
    raise StoreError(
        f"{store.url}: the server did not keep the lifecycle rules as they were written "
        f"({len(written)} of {len(plan.merged)} rules); compare with `invoke lifecycle`"
    )


def find_stranger(store: S3Store) -> str | None:
    """The URL of something below the prefix that is no backup, or None. Raises StoreError.

    An expiry rule knows prefixes alone, and would delete it too. What an interrupted run left is
    no stranger: the next run removes it, or the rule does.
    """
    for key in store.keys_below():
        name = key.removeprefix(store.prefix)
        is_ours = name == CLAIM_NAME or is_backup_name(name) or is_staging_name(name)
        if name and not is_ours:
            return f"s3://{store.bucket}/{printable(key)}"
    return None


def _same_rules(written: Sequence[Rule], merged: Sequence[Rule]) -> bool:
    """Whether two configurations mean the same; a server may list rules in its own order."""
    left = [comparable(rule) for rule in written]
    right = [comparable(rule) for rule in merged]
    return len(left) == len(right) and all(rule in left for rule in right)


def _refused(error: Exception, store: S3Store, doing: str) -> StoreError:
    from backup_tasks.stores.s3.errors import explain, is_unknown_to_server

    if is_unknown_to_server(error):
        return StoreError(
            f"{store.url}: this server has no lifecycle rules; use keep_last, keep_daily and so "
            "on in [retention]"
        )
    return explain(error, store.access.place, doing)


@contextmanager
def _watched(client: Any, unread: set[str]) -> Iterator[None]:
    """Collect the XML elements of an answer that boto3's model of S3 lacks.

    boto3 drops them in silence, and writing the rules back would delete them from the bucket.
    """
    from backup_tasks.stores.s3.errors import UnfitAnswer

    operation = "GetBucketLifecycleConfiguration"
    known = _element_names(client.meta.service_model.operation_model(operation).output_shape)
    known |= {"LifecycleConfiguration", "TransitionDefaultMinimumObjectSize"}

    def compare(response_dict: dict[str, Any], **_: object) -> None:
        if response_dict["status_code"] == 200:
            if b"LifecycleConfiguration" not in response_dict["body"]:
                # Taken for a bucket without rules, it would cost the bucket those that it has.
                raise UnfitAnswer(trouble="an answer came without lifecycle rules")
            found = re.findall(rb"<([A-Za-z][A-Za-z0-9]*)", response_dict["body"])
            unread.update({name.decode() for name in found} - known)

    event = f"before-parse.s3.{operation}"
    client.meta.events.register(event, compare)
    try:
        yield
    finally:
        client.meta.events.unregister(event, compare)


def _element_names(shape: Any) -> set[str]:
    """The XML elements that a shape of botocore's model can be made of."""
    if shape.type_name == "list":
        return _element_names(shape.member)
    names: set[str] = set()
    for member_name, member in getattr(shape, "members", {}).items():
        names.add(member.serialization.get("name", member_name))
        names |= _element_names(member)
    return names
