"""Lifecycle rules: the merge as a pure plan, and the whole of it on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_tasks.errors import StoreError, UsageError
from backup_tasks.profile.model import RetentionSettings
from backup_tasks.prune.lifecycle import render_lifecycle, run_lifecycle
from backup_tasks.prune.lifecycle_rules import Rule, comparable, plan_lifecycle, rule_ids
from tests.conftest import S3Bucket
from tests.support.faulty_proxy import Answer, FaultyProxy, PassOn, Request, refuse
from tests.support.settings import FakeSettings, s3_settings

MONTH = timedelta(days=30)
PREFIX = "backups/"
EXPIRE, UNFINISHED = rule_ids(PREFIX)


def others() -> list[Rule]:
    """Rules of somebody else, of every form that S3 knows."""
    return [
        {
            "ID": "logs",
            "Status": "Enabled",
            "Filter": {"Prefix": "logs/"},
            "Expiration": {"Days": 3},
        },
        {
            "ID": "tagged",
            "Status": "Disabled",
            "Filter": {"And": {"Prefix": PREFIX, "Tags": [{"Key": "a", "Value": "b"}]}},
            "Expiration": {"Days": 9},
        },
        {
            "ID": "backup-tasks other/ expire",
            "Status": "Enabled",
            "Filter": {"Prefix": "other/"},
            "Expiration": {"Days": 5},
        },
    ]


# The plan


def test_plan_adds_both_rules_after_those_of_others() -> None:
    plan = plan_lifecycle(others(), PREFIX, MONTH)
    assert list(plan.merged[:3]) == others()
    assert plan.changed
    expire, unfinished = plan.merged[3:]
    assert (expire["ID"], expire["Filter"], expire["Expiration"]) == (
        "backup-tasks backups/ expire",
        {"Prefix": "backups/"},
        {"Days": 30},
    )
    assert unfinished["ID"] == "backup-tasks backups/ unfinished uploads"
    assert unfinished["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}


def test_plan_finds_nothing_to_do_the_second_time() -> None:
    first = plan_lifecycle(others(), PREFIX, MONTH)
    second = plan_lifecycle(first.merged, PREFIX, MONTH)
    assert not second.changed
    assert second.merged == first.merged


def test_plan_changes_our_rule_where_it_stands() -> None:
    first = plan_lifecycle([], PREFIX, MONTH)
    existing = [*first.merged, *others()]
    plan = plan_lifecycle(existing, PREFIX, timedelta(days=7))
    assert [rule["ID"] for rule in plan.merged] == [rule["ID"] for rule in existing]
    assert plan.merged[0]["Expiration"] == {"Days": 7}
    assert [change.action for change in plan.changes] == ["change", "keep"]


def test_plan_removes_our_expiry_when_the_profile_no_longer_asks_for_it() -> None:
    first = plan_lifecycle(others(), PREFIX, MONTH)
    plan = plan_lifecycle(first.merged, PREFIX, None)
    assert [rule["ID"] for rule in plan.merged] == [*[r["ID"] for r in others()], UNFINISHED]
    assert {change.rule_id: change.action for change in plan.changes} == {
        EXPIRE: "remove",
        UNFINISHED: "keep",
    }


def test_plan_turns_a_rule_of_ours_on_again_that_was_switched_off() -> None:
    rules = [dict(rule) for rule in plan_lifecycle([], PREFIX, MONTH).merged]
    rules[0]["Status"] = "Disabled"
    plan = plan_lifecycle(rules, PREFIX, MONTH)
    assert plan.merged[0]["Status"] == "Enabled"


def test_plan_takes_the_old_form_when_others_have_it_as_s3_refuses_a_mixture() -> None:
    old = {"ID": "old", "Status": "Enabled", "Prefix": "x/", "Expiration": {"Days": 1}}
    plan = plan_lifecycle([old], PREFIX, MONTH)
    assert plan.merged[0] == old
    assert all("Filter" not in rule and rule["Prefix"] == PREFIX for rule in plan.wanted)
    assert not plan_lifecycle(plan.merged, PREFIX, MONTH).changed


def test_plan_keeps_a_rule_of_ours_that_the_server_returns_in_the_old_form() -> None:
    rules = [dict(rule) for rule in plan_lifecycle([], PREFIX, MONTH).merged]
    for rule in rules:
        rule["Prefix"] = rule.pop("Filter")["Prefix"]
    assert not plan_lifecycle(rules, PREFIX, MONTH).changed


@given(
    st.lists(st.sampled_from([*others(), *plan_lifecycle([], PREFIX, MONTH).merged])),
    st.sampled_from([PREFIX, "", "other/", "deep/er/", "x" * 900 + "/"]),
    st.none() | st.integers(1, 4000).map(lambda days: timedelta(days=days)),
)
def test_plan_never_touches_or_reorders_what_is_not_ours(
    existing: list[Rule], prefix: str, expire_after: timedelta | None
) -> None:
    plan = plan_lifecycle(existing, prefix, expire_after)
    ours = rule_ids(prefix)
    assert [rule for rule in plan.merged if rule["ID"] not in ours] == [
        rule for rule in existing if rule["ID"] not in ours
    ]
    assert all(len(rule["ID"]) <= 255 for rule in plan.merged)
    merged = [comparable(rule) for rule in plan.merged]
    assert all(merged.count(comparable(rule)) == 1 for rule in plan.wanted)
    assert not plan_lifecycle(plan.merged, prefix, expire_after).changed


# On a server


def a_profile(settings: FakeSettings, expire_after: timedelta | None, **keep: Any) -> Any:
    retention = RetentionSettings(expire_after=expire_after, **keep)
    return SimpleNamespace(name="prod", store=settings, retention=retention)


def rules_of(bucket: S3Bucket) -> list[Rule]:
    answer = bucket.client.get_bucket_lifecycle_configuration(Bucket=bucket.bucket)
    return list(answer["Rules"])


def give_rules(bucket: S3Bucket, rules: list[Rule]) -> None:
    bucket.client.put_bucket_lifecycle_configuration(
        Bucket=bucket.bucket, LifecycleConfiguration={"Rules": rules}
    )


def test_showing_writes_nothing(s3_bucket: S3Bucket) -> None:
    give_rules(s3_bucket, others())
    report = run_lifecycle(a_profile(s3_settings(s3_bucket), MONTH), install=False)
    assert not report.written
    assert rules_of(s3_bucket) == others()
    text = render_lifecycle(report)
    assert "3 lifecycle rules found" in text
    assert "add  backup-tasks backups/ expire" in text
    assert "deletes objects 30 days after they were stored" in text
    assert "invoke lifecycle --profile prod --install" in text


def test_install_adds_ours_and_leaves_others_exactly_as_they_were(s3_bucket: S3Bucket) -> None:
    give_rules(s3_bucket, others())
    before = rules_of(s3_bucket)
    profile = a_profile(s3_settings(s3_bucket), MONTH)
    report = run_lifecycle(profile, install=True)
    assert report.written
    after = rules_of(s3_bucket)
    assert after[:3] == before
    assert [rule["ID"] for rule in after[3:]] == [EXPIRE, UNFINISHED]
    assert "Installed" in render_lifecycle(report)
    again = run_lifecycle(profile, install=True)
    assert not again.written
    assert "All of that is installed." in render_lifecycle(again)


def test_install_works_in_a_bucket_without_any_rules_and_takes_expiry_out_again(
    s3_bucket: S3Bucket,
) -> None:
    settings = s3_settings(s3_bucket)
    run_lifecycle(a_profile(settings, MONTH), install=True)
    assert len(rules_of(s3_bucket)) == 2
    run_lifecycle(a_profile(settings, None), install=True)
    assert [rule["ID"] for rule in rules_of(s3_bucket)] == [UNFINISHED]


def test_install_with_dry_run_writes_nothing(s3_bucket: S3Bucket) -> None:
    give_rules(s3_bucket, others())
    report = run_lifecycle(a_profile(s3_settings(s3_bucket), MONTH), install=True, dry_run=True)
    assert report.plan.changed
    assert rules_of(s3_bucket) == others()


@pytest.mark.parametrize("key", ["backups/notes.txt", "backups/deeper/2025-06-12_0200-backup.tar"])
def test_expiry_is_refused_where_it_would_delete_what_is_no_backup(
    s3_bucket: S3Bucket, key: str
) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=b"precious")
    profile = a_profile(s3_settings(s3_bucket), MONTH)
    assert key in run_lifecycle(profile, install=False).notes[0]
    with pytest.raises(UsageError, match="prefix of their own"):
        run_lifecycle(profile, install=True)
    # Ending unfinished uploads deletes nothing that is whole.
    run_lifecycle(a_profile(s3_settings(s3_bucket), None), install=True)


def test_expiry_is_accepted_beside_backups_and_other_prefixes(s3_bucket: S3Bucket) -> None:
    for key in ("backups/2025-06-12_0200-backup.tar.gz", "other/notes.txt"):
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=key, Body=b"x")
    assert run_lifecycle(a_profile(s3_settings(s3_bucket), MONTH), install=True).written


def test_expiry_is_accepted_beside_what_an_interrupted_run_left(s3_bucket: S3Bucket) -> None:
    name = "2025-06-12_0200-backup.tar.gz"
    for key in (name, f"{name}.0123abcd.partial"):
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=f"backups/{key}", Body=b"x")
    run_lifecycle(a_profile(s3_settings(s3_bucket), MONTH), install=True)
    assert {rule["ID"] for rule in rules_of(s3_bucket)} == {EXPIRE, UNFINISHED}


def test_a_shorter_expiry_than_the_keep_rules_is_told(s3_bucket: S3Bucket) -> None:
    settings = s3_settings(s3_bucket)
    report = run_lifecycle(
        a_profile(settings, MONTH, keep_daily=30, keep_monthly=12), install=False
    )
    assert "S3 deletes after 30 days what keep_monthly would keep for longer" in report.notes
    assert "30 days after the last backup that succeeded, none is left" in report.notes[-1]
    assert run_lifecycle(a_profile(settings, None, keep_monthly=12), install=False).notes == ()
    forever = run_lifecycle(a_profile(settings, MONTH, keep_yearly=10**12), install=False)
    assert "keep_yearly would keep for longer" in forever.notes[0]


def test_a_bucket_with_versions_is_told(s3_bucket: S3Bucket) -> None:
    s3_bucket.client.put_bucket_versioning(
        Bucket=s3_bucket.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    report = run_lifecycle(a_profile(s3_settings(s3_bucket), MONTH), install=False)
    assert any("keeps versions" in note for note in report.notes)


def test_a_directory_has_no_lifecycle_rules() -> None:
    settings = FakeSettings("file:///mnt/nas/")
    with pytest.raises(UsageError, match=r"only in S3.*keep_last"):
        run_lifecycle(a_profile(settings, MONTH), install=False)


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_bucket.endpoint) as running:
        yield running


def test_a_server_without_lifecycle_rules_is_told(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    settings = s3_settings(s3_bucket, endpoint_url=proxy.endpoint)
    proxy.misbehave("GetLifecycle", refuse(501, "NotImplemented"), times=9)
    with pytest.raises(StoreError, match="has no lifecycle rules; use keep_last"):
        run_lifecycle(a_profile(settings, MONTH), install=False)


def test_a_missing_permission_is_named(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    settings = s3_settings(s3_bucket, endpoint_url=proxy.endpoint)
    proxy.misbehave("PutLifecycle", refuse(403, "AccessDenied"), times=9)
    with pytest.raises(StoreError, match="s3:PutLifecycleConfiguration"):
        run_lifecycle(a_profile(settings, MONTH), install=True)


def test_rules_that_the_server_does_not_keep_are_an_error(
    s3_bucket: S3Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup_tasks.prune.lifecycle_bucket._READ_BACK_PAUSE_SECONDS", 0)
    settings = s3_settings(s3_bucket, endpoint_url=proxy.endpoint)
    proxy.misbehave("PutLifecycle", lambda request, pass_on: Answer(200, {}, b""))
    with pytest.raises(StoreError, match="did not keep the lifecycle rules"):
        run_lifecycle(a_profile(settings, MONTH), install=True)


def test_rules_that_boto3_does_not_know_whole_are_never_written_back(
    s3_bucket: S3Bucket, proxy: FaultyProxy
) -> None:
    def with_news(request: Request, pass_on: PassOn) -> Answer:
        answer = pass_on(request)
        body = answer.body.replace(b"</Rule>", b"<Novelty>1</Novelty></Rule>", 1)
        return Answer(answer.status, answer.headers, body)

    give_rules(s3_bucket, others())
    settings = s3_settings(s3_bucket, endpoint_url=proxy.endpoint)
    proxy.misbehave("GetLifecycle", with_news)
    with pytest.raises(StoreError, match="Novelty"):
        run_lifecycle(a_profile(settings, MONTH), install=True)
    assert rules_of(s3_bucket) == others()
