"""Decide which lifecycle rules a bucket should have, given its present ones. Pure.

A rule is a dict as boto3 gives it, for example `{"ID": ..., "Status": "Enabled",
"Filter": {"Prefix": "backups/"}, "Expiration": {"Days": 30}}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from msgspec import Struct

Rule = dict[str, Any]
Action = Literal["keep", "add", "change", "remove"]

UNFINISHED_DAYS = 2
# S3's limit, in characters.
_LONGEST_ID = 255


class RuleChange(Struct, frozen=True):
    """The action for one rule of ours, and the rule's effect in words."""

    rule_id: str
    action: Action
    effect: str


class LifecyclePlan(Struct, frozen=True):
    """The rules that the profile asks for, and the bucket's whole configuration with them.

    Attributes:
        wanted: our rules.
        merged: all rules; those of others unchanged, in their order.
        changes: one for each rule of ours, wanted or obsolete.
    """

    wanted: tuple[Rule, ...]
    merged: tuple[Rule, ...]
    changes: tuple[RuleChange, ...]

    @property
    def changed(self) -> bool:
        """Whether anything has to be written."""
        return any(change.action != "keep" for change in self.changes)


def plan_lifecycle(
    existing_rules: Sequence[Rule], prefix: str, expire_after: timedelta | None
) -> LifecyclePlan:
    """Merge our rules into the bucket's.

    Our rules are known by their ID, which contains the prefix, so that several profiles may share
    a bucket. A rule of ours that is no longer wanted is removed.

    Args:
        prefix: "" or text that ends with a slash.
        expire_after: whole days, at least one; None lets nothing expire.
    """
    # S3 refuses to mix rules of the old form (Prefix without Filter) with rules of the new form.
    legacy = any("Prefix" in rule and "Filter" not in rule for rule in existing_rules)
    wanted = _wanted_rules(prefix, expire_after, legacy=legacy)
    wanted_by_id = {rule["ID"]: rule for rule in wanted}
    ours = set(rule_ids(prefix))
    merged: list[Rule] = []
    changes: list[RuleChange] = []
    for rule in existing_rules:
        rule_id = rule.get("ID", "")
        if rule_id not in ours:
            merged.append(rule)
        elif rule_id not in wanted_by_id:
            changes.append(RuleChange(rule_id, "remove", render_effect(rule)))
        else:
            new = wanted_by_id.pop(rule_id)
            same = comparable(new) == comparable(rule)
            merged.append(rule if same else new)
            changes.append(RuleChange(rule_id, "keep" if same else "change", render_effect(new)))
    for rule_id, rule in wanted_by_id.items():
        merged.append(rule)
        changes.append(RuleChange(rule_id, "add", render_effect(rule)))
    return LifecyclePlan(tuple(wanted), tuple(merged), tuple(changes))


def rule_ids(prefix: str) -> tuple[str, str]:
    """The IDs of our rules for this prefix: expiry, unfinished uploads."""
    place = prefix or "/"
    if len(place) > 200:
        place = hashlib.sha256(place.encode()).hexdigest()
    ids = f"backup-tasks {place} expire", f"backup-tasks {place} unfinished uploads"
    assert max(map(len, ids)) <= _LONGEST_ID
    return ids


def comparable(rule: Rule) -> Rule:
    """Bring a rule to one form, whichever of its two forms a server returns."""
    plain = {key: value for key, value in rule.items() if key != "Prefix"}
    if "Prefix" in rule and "Filter" not in rule:
        plain["Filter"] = {"Prefix": rule["Prefix"]}
    if plain.get("Filter") == {}:  # some servers leave out an empty prefix
        plain["Filter"] = {"Prefix": ""}
    return plain


def rule_prefix(rule: Rule) -> str:
    """The prefix of the objects that a rule covers, "" for all."""
    where = rule.get("Filter", rule)
    where = where.get("And", where)
    return str(where.get("Prefix", ""))


def render_effect(rule: Rule) -> str:
    """Say in words what a rule does; an action without a number of days is only named."""
    effects = []
    for action, text in (
        ("Expiration", "deletes objects {} after they were stored"),
        ("AbortIncompleteMultipartUpload", "ends unfinished uploads {} after their start"),
        ("NoncurrentVersionExpiration", "deletes older versions {} after they were replaced"),
    ):
        settings = rule.get(action, {})
        days = settings.get("Days", settings.get("DaysAfterInitiation"))
        days = settings.get("NoncurrentDays", days)
        if days:
            effects.append(text.format("a day" if days == 1 else f"{days} days"))
        elif settings:
            effects.append(action)
    effects += [key for key in ("Transitions", "NoncurrentVersionTransitions") if key in rule]
    return ", ".join(effects) or "nothing that is known here"


def _wanted_rules(prefix: str, expire_after: timedelta | None, *, legacy: bool) -> list[Rule]:
    expire_id, unfinished_id = rule_ids(prefix)
    where: Rule = {"Prefix": prefix} if legacy else {"Filter": {"Prefix": prefix}}
    rules: list[Rule] = []
    if expire_after is not None:
        assert expire_after >= timedelta(days=1), "S3 counts in whole days"
        expiration = {"Days": expire_after.days}
        rules.append({"ID": expire_id, "Status": "Enabled", **where, "Expiration": expiration})
    abort = {"DaysAfterInitiation": UNFINISHED_DAYS}
    rules.append(
        {
            "ID": unfinished_id,
            "Status": "Enabled",
            **where,
            "AbortIncompleteMultipartUpload": abort,
        }
    )
    return rules
