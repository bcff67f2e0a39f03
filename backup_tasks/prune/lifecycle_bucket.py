"""Read and replace a bucket's lifecycle configuration, and find strangers that it would delete."""

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
    """A bucket's present lifecycle configuration.

    Attributes:
        rules: as boto3 gives them, in the server's order.
        options: settings of the whole configuration, to be written back unchanged.
        is_versioned: whether the bucket keeps versions; None if the server does not say.
        unread: elements of the server's answer that boto3 ignored.
    """

    rules: tuple[Rule, ...]
    options: dict[str, Any]
    is_versioned: bool | None
    unread: tuple[str, ...] = ()


def read_lifecycle(store: S3Store) -> BucketLifecycle:
    """Read the bucket's rules, and whether it keeps versions.

    Raises:
        StoreError: the server does not give the rules.
    """
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
        # A suspended bucket counts as well: older versions stay, and so do expired objects.
        is_versioned = "Status" in client.get_bucket_versioning(Bucket=store.bucket)
    answer.pop("ResponseMetadata", None)
    rules = tuple(answer.pop("Rules", ()))
    return BucketLifecycle(rules, answer, is_versioned, tuple(sorted(unread)))


def install_lifecycle(store: S3Store, found: BucketLifecycle, plan: LifecyclePlan) -> None:
    """Write the plan's rules and read them back.

    A change that somebody else makes between our read and our write is lost: S3 has no way to
    prevent that.

    Raises:
        StoreError: the rules cannot be written; the bucket then has other rules than were written;
            or it had elements that boto3 would drop, and nothing was written.
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
    """The URL of an object below the prefix that is none of ours, or None.

    An expiry rule knows only prefixes, and would delete such an object too. Staging objects of an
    interrupted run are ours: the next run removes them, or the rule does.

    Raises:
        StoreError: the store cannot be listed.
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
    """Collect the XML elements of an answer that are missing from boto3's model of S3.

    boto3 drops them silently, so that writing the rules back would delete them from the bucket.

    Raises:
        UnfitAnswer: an answer with status 200 has no lifecycle configuration.
    """
    from backup_tasks.stores.s3.errors import UnfitAnswer

    operation = "GetBucketLifecycleConfiguration"
    known = _element_names(client.meta.service_model.operation_model(operation).output_shape)
    known |= {"LifecycleConfiguration", "TransitionDefaultMinimumObjectSize"}

    def compare(response_dict: dict[str, Any], **_: object) -> None:
        if response_dict["status_code"] == 200:
            if b"LifecycleConfiguration" not in response_dict["body"]:
                # Taken for an empty configuration, this answer would cost the bucket its rules.
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
    """The names of all XML elements that can occur in a shape of botocore's model."""
    if shape.type_name == "list":
        return _element_names(shape.member)
    names: set[str] = set()
    for member_name, member in getattr(shape, "members", {}).items():
        names.add(member.serialization.get("name", member_name))
        names |= _element_names(member)
    return names
