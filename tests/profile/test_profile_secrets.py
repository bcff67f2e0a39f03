"""No secret of a profile lies open, in a file or in a message."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from backup_tasks.common.paths import Paths
from backup_tasks.errors import ProfileError
from backup_tasks.profile.load import (
    load_profile,
)
from backup_tasks.profile.model import Profile
from tests.support.profile_files import CANARY, EMAIL, SMALLEST, load, problems, write

LITERAL = SMALLEST + f'access_key_id = {{ env = "A" }}\nsecret_access_key = "{CANARY}"\n'


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_literal_secret_in_a_file_that_others_reach_is_refused(paths: Paths, mode: int) -> None:
    (line,) = problems(paths, LITERAL, mode)
    assert line.startswith("profiles/prod.toml:6: store.secret_access_key: a secret in plain text")
    assert "run: chmod 600 profiles/prod.toml, or write { env =" in line
    assert CANARY not in line


def test_a_literal_secret_in_a_file_of_ones_own_is_taken(paths: Paths) -> None:
    secret = load(paths, LITERAL, 0o600).store.secret_access_key
    assert secret
    assert secret.reveal() == CANARY


def test_the_file_that_holds_the_literal_is_the_one_that_counts(paths: Paths) -> None:
    write(paths, LITERAL, "base", 0o644)
    (line,) = problems(paths, 'inherit = "base"\n', 0o600)
    assert line.startswith("profiles/base.toml:6: store.secret_access_key: a secret in plain")
    write(paths, LITERAL, "base", 0o600)
    assert load(paths, 'inherit = "base"\n', 0o644)
    # Also one that is overridden lies open.
    write(paths, LITERAL, "base", 0o644)
    override = 'inherit = "base"\n[store]\nsecret_access_key = { env = "B" }\n'
    assert problems(paths, override, 0o600)[0].startswith("profiles/base.toml:6:")


def test_no_dump_and_no_error_shows_a_secret(paths: Paths) -> None:
    login = f'username = "u"\npassword = "{CANARY}"\n'
    profile = load(paths, LITERAL + EMAIL + login, 0o600)
    shown = [
        repr(profile),
        str(profile),
        repr(profile.model_dump()),
        profile.model_dump_json(),
        repr(profile.store),
        repr(profile.model_copy(deep=True)),
    ]
    broken = [
        LITERAL + "max_attempts = 99\n",
        LITERAL.replace(f'"{CANARY}"', f'["{CANARY}"]'),
        LITERAL.replace(f'"{CANARY}"', f'{{ env = "${CANARY}" }}'),
        LITERAL.replace(f'"{CANARY}"', f'{{ envi = "{CANARY}" }}'),
        LITERAL.replace(f'"{CANARY}"', f'"{CANARY}\\n"'),
        LITERAL.replace(f'"{CANARY}"', f'"{CANARY}'),
        LITERAL.replace(f'"{CANARY}"', CANARY),
        LITERAL.replace("secret_access_key", "secret_acces_key"),
        LITERAL.replace("s3://bucket", f"s3://key:{CANARY.replace('/', '')}@bucket"),
        LITERAL + f'endpoint_url = "https://u:{CANARY.replace("/", "")}@example.com"\n',
    ]
    for text in broken:
        write(paths, text, mode=0o600)
        with pytest.raises(ProfileError) as caught:
            load_profile("prod", paths)
        shown += [str(caught.value), repr(caught.getrepr(chain=True, showlocals=False))]
        assert caught.value.__cause__ is None
    with pytest.raises(ValidationError) as raw:
        Profile.model_validate({"store": {"url": "s3://b", "secret_access_key": [CANARY]}})
    shown += [str(raw.value), repr(raw.value)]
    assert not [text for text in shown if CANARY in text or CANARY.replace("/", "") in text]


def test_a_secret_that_cannot_be_read_names_its_place(paths: Paths) -> None:
    keys = 'access_key_id = { env = "ABSENT_KEY" }\nsecret_access_key = { file = "absent" }\n'
    store = load(paths, SMALLEST + keys).store
    assert store.access_key_id
    assert store.secret_access_key
    with pytest.raises(ProfileError, match=r"prod\.toml:5: store\.access_key_id: .*ABSENT_KEY"):
        store.access_key_id.reveal()
    with pytest.raises(ProfileError, match=f":6: store.secret_access_key: .*{paths.profiles}/abs"):
        store.secret_access_key.reveal()
