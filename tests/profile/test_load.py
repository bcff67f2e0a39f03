"""What a profile says when it is right: values, defaults, names, inheritance."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from pydantic import ValidationError

from backup_tasks.common.paths import PROJECT_ROOT, Paths
from backup_tasks.errors import ProfileError
from backup_tasks.profile.load import describe_profiles, list_profiles, load_profile
from backup_tasks.stores.registry import open_store
from backup_tasks.stores.s3.store import S3Store
from tests.support.profile_files import EMAIL, SMALLEST, STORE, load, problems, told, write


def test_the_smallest_profile_has_the_documented_defaults(paths: Paths) -> None:
    profile = load(paths, SMALLEST)
    assert (profile.name, profile.path) == ("prod", paths.profiles / "prod.toml")
    assert profile.backup.sources == ("/etc",)
    assert profile.backup.exclude_caches
    assert profile.backup.full_every == timedelta(days=30)
    assert (profile.store.kind.scheme, profile.store.url) == ("s3://", "s3://bucket/")
    assert (profile.store.max_attempts, profile.store.endpoint_url) == (8, "")
    assert not profile.retention.is_set
    assert profile.retention.keep_within == timedelta()
    assert (profile.encryption, profile.schedule, profile.notify.email) == (None, None, None)


def test_a_profile_cannot_be_changed(paths: Paths) -> None:
    profile = load(paths, SMALLEST)
    with pytest.raises(ValidationError):
        profile.backup.compression_level = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "url", "prefix"),
    [
        ("s3://bucket", "s3://bucket/", ""),
        ("s3://bucket/", "s3://bucket/", ""),
        ("s3://bucket/a/b", "s3://bucket/a/b/", "a/b/"),
        ("s3://bucket/a b/%20/", "s3://bucket/a b/%20/", "a b/%20/"),
    ],
)
def test_a_prefix_is_empty_or_ends_with_a_slash(
    paths: Paths, written: str, url: str, prefix: str
) -> None:
    store = load(paths, SMALLEST.replace("s3://bucket", written)).store
    opened = open_store(store)
    assert isinstance(opened, S3Store)
    assert (store.url, opened.bucket, opened.prefix) == (url, "bucket", prefix)


@pytest.mark.parametrize(
    ("written", "directory"),
    [
        ("file:///mnt/nas/backups", "/mnt/nas/backups"),
        ("file:///mnt//nas/x/../backups/", "/mnt/nas/backups"),
        ("file:/mnt/my disk/", "/mnt/my disk"),
        ("file:./backups/", f"{PROJECT_ROOT}/backups"),
    ],
)
def test_a_file_url_is_a_folder_from_the_root_or_the_project(
    paths: Paths, written: str, directory: str
) -> None:
    store = load(paths, SMALLEST.replace("s3://bucket", written)).store
    assert (store.kind.scheme, store.folder) == ("file://", Path(directory))
    assert store.url == f"file://{directory}/"


def test_sources_are_normalised_and_begin_at_the_root_or_the_project(paths: Paths) -> None:
    text = SMALLEST.replace('["/etc"]', '["//etc//x/", "/a/../b", "/", "./docs/", "./", "/\\n"]')
    sources = load(paths, text).backup.sources
    assert sources == ("/etc/x", "/b", "/", f"{PROJECT_ROOT}/docs", str(PROJECT_ROOT), "/\n")


def test_a_pattern_of_the_project_is_anchored_there_whatever_its_name(
    paths: Paths, tmp_path: Path
) -> None:
    odd = replace(paths, root=tmp_path / "a[b]*c")
    excludes = 'exclude = ["./x/", "!./x/y", "*.z"]\n'
    write(odd, '[backup]\nsources = ["/etc"]\n' + excludes + STORE)
    patterns = load_profile("prod", odd).backup.exclude
    assert patterns == (f"{tmp_path}/a\\[b\\]\\*c/x/", f"!{tmp_path}/a\\[b\\]\\*c/x/y", "*.z")


@pytest.mark.parametrize(
    ("security", "port"), [("", 587), ("starttls", 587), ("tls", 465), ("none", 25)]
)
def test_the_port_follows_the_security(paths: Paths, security: str, port: int) -> None:
    written = f'security = "{security}"\n' if security else ""
    email = load(paths, SMALLEST + EMAIL + written).notify.email
    assert email
    assert email.port == port
    assert (email.sender, email.to) == ("a@example.com", ("b@example.com",))
    assert email.on == ("success", "failure")
    explicit = load(paths, SMALLEST + EMAIL + written + "port = 2525\n").notify.email
    assert explicit
    assert explicit.port == 2525


def test_a_password_may_go_unencrypted_to_this_machine_alone(paths: Paths) -> None:
    login = 'security = "none"\nusername = "u"\npassword = { env = "P" }\n'
    for host in ("localhost", "127.0.0.1", "::1"):
        assert load(paths, SMALLEST + EMAIL.replace("smtp.example.com", host) + login)
    for host in ("smtp.example.com", "127.0.0.1.example.com"):
        (line,) = problems(paths, SMALLEST + EMAIL.replace("smtp.example.com", host) + login)
        assert "notify.email.password: would be sent readable to all" in line


def test_an_endpoint_may_come_from_the_environment_when_it_is_used(paths: Paths) -> None:
    write(paths, SMALLEST + 'endpoint_url = { env = "ENDPOINT" }\n')
    store = load_profile("prod", paths, environ={"ENDPOINT": "http://127.0.0.1:8333"}).store
    assert store.endpoint_url == "http://127.0.0.1:8333"
    for value, reason in (("", "is empty"), ("nonsense", "should be the address of a server")):
        store = load_profile("prod", paths, environ={"ENDPOINT": value}).store
        with pytest.raises(ProfileError, match=f":5: store.endpoint_url: .* ENDPOINT {reason}"):
            _ = store.endpoint_url


def test_retention_is_set_by_any_rule_that_keeps(paths: Paths) -> None:
    for rule in ("keep_last = 1", 'keep_within = "3d"', "keep_yearly = 2"):
        assert load(paths, f"{SMALLEST}[retention]\n{rule}\n").retention.is_set
    expiring = load(paths, f'{SMALLEST}[retention]\nexpire_after = "2w"\n').retention
    assert not expiring.is_set
    assert expiring.expire_after == timedelta(days=14)


def test_no_name_means_the_variable_and_then_local(paths: Paths) -> None:
    write(paths, SMALLEST, "local")
    write(paths, SMALLEST, "other")
    assert load_profile("", paths, environ={}).name == "local"
    assert load_profile("", paths, environ={"BACKUP_PROFILE": "other"}).name == "other"
    assert load_profile("local", paths, environ={"BACKUP_PROFILE": "other"}).name == "local"


def test_an_unknown_profile_is_told_with_those_there_are(paths: Paths) -> None:
    write(paths, SMALLEST, "prod")
    write(paths, SMALLEST, "staging")
    (line,) = told(paths, "prdo")
    assert line.startswith('unknown profile "prdo"; did you mean "prod"?')
    assert line.endswith("there are: prod, staging")
    assert "there are none" in told(replace(paths, profiles=paths.logs), "prod")[0]
    for name in ("--help", "Prod", "prod\n", "prod.example", "x" * 64, "é"):
        assert told(paths, name)[0].startswith("unknown profile")


def test_a_path_is_taken_from_where_one_stands(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.toml").write_text('inherit = "near"\n' + SMALLEST)
    (elsewhere / "near.toml").write_text('inherit = "far"\n[retention]\nkeep_last = 1\n')
    write(paths, "[retention]\nkeep_last = 2\nkeep_daily = 3\n", "far")
    write(paths, "[retention]\nkeep_last = 4\n", "near")
    monkeypatch.chdir(elsewhere)
    for name in ("mine.toml", "./mine.toml", str(elsewhere / "mine.toml")):
        profile = load_profile(name, paths)
        assert (profile.name, profile.path) == ("mine", elsewhere / "mine.toml")
        assert (profile.retention.keep_last, profile.retention.keep_daily) == (1, 3)
    assert told(paths, "absent.toml") == ['there is no profile "absent.toml"']
    for name in ("./Mine.toml", "./mine", "a.b.toml"):
        assert "is not the path of a profile" in told(paths, name)[0]
    (elsewhere / "mine.toml").write_text("x = 1")
    assert told(paths, "mine.toml")[0].startswith('mine.toml:1: unknown key "x"')


def test_only_files_with_a_profiles_name_are_listed(paths: Paths) -> None:
    for name in ("b", "a-1_x", "prod.example", "Upper", "-dash", ".hidden", "x" * 64):
        (paths.profiles / f"{name}.toml").write_text("")
    (paths.profiles / "notes.txt").write_text("")
    (paths.profiles / "folder.toml").mkdir()
    (paths.profiles / "nowhere.toml").symlink_to("/nonexistent/nowhere.toml")
    assert list_profiles(paths) == ["a-1_x", "b", "nowhere"]


def test_a_folder_of_profiles_that_is_missing_is_no_folder_without_profiles(paths: Paths) -> None:
    absent = replace(paths, profiles=paths.profiles / "absent")
    in_the_way = replace(paths, profiles=paths.profiles / "file")
    in_the_way.profiles.touch()
    for place in (absent, in_the_way):
        for ask in (list_profiles, describe_profiles):
            with pytest.raises(ProfileError, match=f"{place.profiles}, cannot be read: "):
                ask(place)


def test_tables_merge_key_by_key_and_lists_replace(paths: Paths) -> None:
    write(
        paths,
        'description = "base"\n[backup]\nsources = ["/a"]\nexclude = ["x", "y"]\n'
        "one_file_system = true\n[retention]\nkeep_last = 1\nkeep_daily = 2\n",
        "base",
    )
    profile = load(
        paths,
        'inherit = "base"\n[backup]\nexclude = ["z"]\n[store]\nurl = "s3://bucket"\n'
        "[retention]\nkeep_last = 9\n",
    )
    assert (profile.description, profile.inherit) == ("", "base")
    assert profile.backup.sources == ("/a",)
    assert profile.backup.exclude == ("z",)
    assert profile.backup.one_file_system
    assert (profile.retention.keep_last, profile.retention.keep_daily) == (9, 2)


def test_a_secret_replaces_the_one_it_inherits(paths: Paths) -> None:
    keys = STORE + 'access_key_id = { env = "A" }\nsecret_access_key = { file = "b" }\n'
    write(paths, '[backup]\nsources = ["/a"]\n' + keys, "base")
    write(paths, 'inherit = "base"\n[store]\nsecret_access_key = { env = "NEW" }\n')
    store = load_profile("prod", paths, environ={"NEW": "new", "A": "a"}).store
    assert store.secret_access_key
    assert store.access_key_id
    assert (store.access_key_id.reveal(), store.secret_access_key.reveal()) == ("a", "new")


def test_a_problem_is_told_where_it_is_written(paths: Paths) -> None:
    write(paths, '[backup]\nexclud = ["x"]\ncompression_level = 9\nsources = ["rel"]\n', "base")
    lines = problems(
        paths, 'inherit = "base"\n\n[backup]\nsources = [\n"/a",\n"b"]\n[store]\nurl = "s3://b/"\n'
    )
    assert lines == [
        'profiles/base.toml:2: backup: unknown key "exclud"; did you mean "exclude"?',
        "profiles/base.toml:3: backup.compression_level: should be at most 3, found 9",
        'profiles/prod.toml:6: backup.sources: "b" should begin with / (or ./ for the project\'s '
        "own folder)",
        'profiles/prod.toml:8: store.url: "b" is not the name of a bucket; write '
        '"s3://bucket/prefix/"',
    ]


def test_inherit_that_leads_nowhere_or_round_is_told(paths: Paths) -> None:
    write(paths, '\ninherit = "prod"\n', "base")
    assert problems(paths, '\n\ninherit = "base"\n') == [
        "profiles/base.toml:2: inherit: goes round in a circle: prod -> base -> prod"
    ]
    assert problems(paths, 'inherit = "prod"') == [
        "profiles/prod.toml:1: inherit: goes round in a circle: prod -> prod"
    ]
    assert problems(paths, 'inherit = "absent"') == [
        'profiles/prod.toml:1: inherit: there is no profile "absent" to inherit from'
    ]
    for value in ("7", '"../x"', '["a"]'):
        (line,) = problems(paths, f"inherit = {value}")
        assert line == 'profiles/prod.toml:1: inherit: should be a profile\'s name, such as "base"'


def test_what_only_toml_1_1_allows_is_read_too(paths: Paths) -> None:
    profile = load(
        paths, SMALLEST + 'access_key_id = { env = "A", }\nsecret_access_key = {\nenv = "B" }\n'
    )
    assert profile.store.access_key_id is not None


def test_every_key_of_backup_either_leaves_something_out_or_does_not(paths: Paths) -> None:
    """What leaves something out explains that a source shrank: nobody may forget a new one."""
    rules = load(paths, SMALLEST).backup
    others = {
        "sources",
        "compression_level",
        "full_every",
        "shrink_limit",
        "timezone",
    }
    keys = set(type(rules).model_fields) - others
    assert len(rules.leaves_out) == len(keys)
    for key in keys:
        changed = rules.model_copy(update={key: not getattr(rules, key)})
        assert changed.leaves_out != rules.leaves_out, key
