"""The outcome of a task is known, also of one that nobody needs to hear of when all is well."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backup_tasks.command.supervise import supervised
from backup_tasks.common.paths import Paths
from backup_tasks.errors import StoreError
from backup_tasks.journal.run_record import read_records


def clock() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_failure_is_logged_and_recorded_also_where_a_success_would_not_be(
    paths: Paths, recorded: bool
) -> None:
    with (
        pytest.raises(StoreError, match="no connection"),
        supervised("list", "prod", paths, clock, recorded=recorded),
    ):
        raise StoreError("no connection")
    (record,) = read_records(paths)
    assert (record["task"], record["result"], record["error"]) == (
        "list",
        "failure",
        "no connection",
    )
    assert "FAILURE: list prod: no connection" in (paths.logs / "backup.log").read_text()
