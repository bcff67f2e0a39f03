"""What botocore reads of services is the same, however it is found and read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest

from backup_tasks.stores.s3.models import use_quick_loader


def quick_session() -> botocore.session.Session:
    session = botocore.session.get_session()
    use_quick_loader(session)
    return session


@pytest.mark.parametrize("service", ["s3", "sts", "sso", "sso-oidc"])
@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1", "paginators-1"])
def test_a_description_is_what_botocore_reads_itself(service: str, kind: str) -> None:
    ours = quick_session().get_component("data_loader")
    theirs = botocore.session.get_session().get_component("data_loader")
    assert ours.load_service_model(service, kind) == theirs.load_service_model(service, kind)
    assert ours.load_data_with_path("endpoints") == theirs.load_data_with_path("endpoints")


def test_a_service_that_is_none_is_refused() -> None:
    with pytest.raises(botocore.exceptions.BotoCoreError):
        quick_session().create_client("s4", region_name="eu-central-1")


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_an_operators_own_descriptions_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    folder = tmp_path / "s3" / "2006-03-01"
    folder.mkdir(parents=True)
    content = json.dumps({"metadata": {"own": True}}).encode()
    packed = gzip.compress(content) if ending.endswith("gz") else content
    (folder / f"service-2{ending}").write_bytes(packed)
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    loader = quick_session().get_component("data_loader")
    assert loader.load_service_model("s3", "service-2")["metadata"]["own"]
