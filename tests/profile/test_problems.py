"""What a profile says when it is wrong: every problem at once, each in its place."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from backup_tasks.common.paths import Paths
from backup_tasks.errors import ProfileError
from backup_tasks.profile.load import (
    load_profile,
)
from tests.support.profile_files import EMAIL, SMALLEST, STORE, load, problems, told, write

AGE_KEY = "age1tslaj4qpak48vffgx9klt00a0k6490mwyxd4cgngmgg6nfr8n3uqmf5gw2"


def test_all_problems_are_told_at_once_in_order(paths: Paths) -> None:
    lines = problems(
        paths,
        """description = 7
name = "x"
[backup]
sourcs = ["/etc"]
sources = "/etc"
exclude = ["!", "ok"]
full_every = "soon"
one_file_system = "yes"
keep_last = 4
[store]
url = "https://example.com"
max_attempts = "seven"
access_key_id = { env = "A" }
[schedule]
cron = "61 * * * *"
[retention]
keep_last = -1
expire_after = "36h"
[notify.email]
on = ["never"]
host = "smtp.example.com:25"
username = "u"
from = "nobody"
""",
    )
    assert lines == [
        "profiles/prod.toml:1: description: should be text in quotes, found 7",
        'profiles/prod.toml:2: unknown key "name"; known here: backup, description, drill, '
        "encryption, inherit, notify, retention, schedule, signing, store",
        'profiles/prod.toml:4: backup: unknown key "sourcs"; did you mean "sources"?',
        'profiles/prod.toml:5: backup.sources: should be a list, found "/etc"; write ["/etc"]',
        'profiles/prod.toml:6: backup.exclude: "!" is not a gitignore pattern that can match a '
        "file",
        "profiles/prod.toml:7: backup.full_every: 'soon' is not a duration; write for example "
        '"30d", "12h" or "1d 12h" (s, m, h, d, w, y)',
        'profiles/prod.toml:8: backup.one_file_system: should be true or false, found "yes"',
        'profiles/prod.toml:9: backup: unknown key "keep_last"; did you mean '
        '"retention.keep_last"?',
        "profiles/prod.toml:11: store.url: should begin with s3:// or file://; write "
        '"s3://bucket/prefix/", "file:///folder/" or "file:./folder/"',
        'profiles/prod.toml:12: store.max_attempts: should be a whole number, found "seven"',
        "profiles/prod.toml:13: store.access_key_id: needs secret_access_key as well",
        'profiles/prod.toml:15: schedule.cron: "61" is not a minute that cron knows',
        "profiles/prod.toml:17: retention.keep_last: should be at least 0, found -1",
        'profiles/prod.toml:18: retention.expire_after: should be whole days, at least "1d"; S3 '
        "counts nothing smaller",
        "profiles/prod.toml:19: notify.email.to: missing; [notify.email] cannot do without it",
        'profiles/prod.toml:20: notify.email.on: should be "success" or "failure", found "never"',
        'profiles/prod.toml:21: notify.email.host: "smtp.example.com:25" should be a host\'s name '
        "or address, without port",
        "profiles/prod.toml:22: notify.email.username: needs password as well",
        'profiles/prod.toml:23: notify.email.from: "nobody" should be one email address',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", '1: backup: missing; add [backup] with sources = ["/etc"]'),
        ("[backup]\n", "1: backup.sources: missing; name what to back up"),
        ("\n[store]\n", "2: store.url: missing; say where backups go"),
        ("store = 7\n", "1: store: should be a table, [store], found 7"),
        ("[backup]\nsources = []\n", "2: backup.sources: needs at least one entry"),
        ('[backup]\nsources = ["/a", "/a/"]\n', '2: backup.sources: "/a" is listed twice'),
        ('[backup]\nsources = ["/a\\u0000"]\n', "2: backup.sources: holds a NUL byte"),
        ('[backup]\nsources = ["~/x"]\n', '2: backup.sources: "~/x" should be a full path'),
        ('[backup]\nexclude_if_present = ["a/b"]\n', '2: backup.exclude_if_present: "a/b" should'),
        ('[backup]\nexclude = ["#x"]\n', '2: backup.exclude: "#x" is a comment to gitignore'),
        ('[backup]\nexclude = ["[[:x:]]"]\n', '2: backup.exclude: "[[:x:]]" is not a gitignore'),
        ('[backup]\ntimezone = "Europe/Stokholm"\n', '"Europe/Stockholm"?'),
        ('[backup]\nfull_every = "0d"\n', "2: backup.full_every: should be longer than nothing"),
        ('[backup]\nfull_every = "99999999999y"\n', "is longer than time itself"),
        ("[backup]\nfull_every = 30\n", "2: backup.full_every: should be a duration in quotes"),
        ("[backup]\ncompression_level = true\n", "should be a whole number, found true"),
        ("[backup]\ncompression_level = 1.0\n", "should be a whole number, found 1.0"),
        ('[store]\nregion = "a b"\n', '2: store.region: "a b" is not a region'),
        ('[store]\nstorage_class = "GLACIER"\n', "2: store.storage_class: GLACIER cannot be read"),
        ('[store]\naddressing_style = "x"\n', 'should be "auto", "path" or "virtual", found "x"'),
        ('[store]\nurl = "s3://b/../x"\n', "2: store.url:"),
        ('[store]\nurl = "s3://bucket//x"\n', "holds an empty part"),
        ('[store]\nurl = "file://host/x"\n', "2: store.url: a file URL is file:///folder/"),
        ('[store]\nurl = "file:///"\n', "2: store.url: the store needs a folder of its own"),
        (
            f'[store]\nurl = "file:./{"../" * 40}"\n',
            "2: store.url: the store needs a folder of its",
        ),
        ('[store]\nurl = "s3://bucket/\\n"\n', "2: store.url: holds a character that cannot be"),
        ('[store]\nendpoint_url = "s3.example.com"\n', "2: store.endpoint_url: should be the addr"),
        ('[store]\nsession_token = { env = "A" }\n', "2: store.session_token: needs access_key_id"),
        ('[schedule]\ncron = "@reboot"\n', "2: schedule.cron: @reboot is not supported"),
        ("[notify]\nemail = true\n", "2: notify.email: should be a table, [notify.email]"),
        ("[hooks]\nx = 1\n", '1: unknown key "hooks"; known here: backup,'),
        ("a = \n", "1: the line ends too early"),
        ("[store]\n[store]\n", '2: "store" is written twice; first in line 1'),
    ],
)
def test_each_problem_says_where_what_and_what_to_do(paths: Paths, text: str, line: str) -> None:
    assert any(f"prod.toml:{line}" in told or line in told for told in problems(paths, text)), (
        problems(paths, text)
    )


@pytest.mark.parametrize(
    "cron",
    ["0 2 * * *", "*/15 0-6,22 1,15 jan-mar mon-fri", "@daily", " 0  2 * * SUN ", "0 0 29 2 *"],
)
def test_cron_expressions_that_fire_are_taken(paths: Paths, cron: str) -> None:
    schedule = load(paths, f'{SMALLEST}[schedule]\ncron = "{cron}"\n').schedule
    assert schedule
    assert schedule.cron == " ".join(cron.split())


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 32 * *", '"32" is not a day of the month that cron knows'),
        ("0 0 5-1 * *", '"5-1" is not a day of the month'),
        ("0 24 * * *", '"24" is not a hour that cron knows'),
        ("0 0 L * *", '"L" is not a day of the month'),
        ("0 0 * * 5#3", '"5#3" is not a day of the week'),
        ("0 0 * mon *", '"mon" is not a month'),
        ("5/10 * * * *", "step without a range"),
        ("0 0 2 * * *", "should have five fields"),
        ("0 2 * *", "should have five fields"),
        ("", "should have five fields"),
        ("0 2 * * *\\n* * * * *", "should have five fields"),
        ("@Daily", '"@Daily" is none of'),
    ],
)
def test_cron_expressions_that_cron_cannot_run_are_refused(
    paths: Paths, cron: str, reason: str
) -> None:
    (line,) = problems(paths, f'{SMALLEST}[schedule]\ncron = "{cron}"\n')
    assert reason in line


def test_s3_keys_beside_a_folder_are_refused(paths: Paths) -> None:
    text = SMALLEST.replace("s3://bucket", "file:///b/")
    lines = problems(paths, text + 'region = "x"\naccess_key_id = { env = "A" }\n')
    assert [line.partition(" means")[0] for line in lines] == [
        "profiles/prod.toml:5: store.region:",
        "profiles/prod.toml:6: store.access_key_id:",
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("", "5: encryption.recipients: "),
        ("recipients = []", "6: encryption.recipients: needs at least one public key"),
        ("recipients = 7", "6: encryption.recipients: should be a list of public keys"),
        ('recipients = "age1x"', "6: encryption.recipients: should be a list of public keys"),
        ('recipients = ["age1x"]', "6: encryption.recipients: entry 1 is no public key for age"),
        (f'recipients = ["{AGE_KEY}", "ssh-ed25519"]', "6: encryption.recipients: entry 2 is no"),
        (f'recipients = ["{AGE_KEY}", "{AGE_KEY}"]', "entry 2 is listed twice"),
    ],
)
def test_nobody_may_believe_that_backups_are_encrypted(paths: Paths, body: str, told: str) -> None:
    (line,) = problems(paths, f"{SMALLEST}[encryption]\n{body}\n")
    assert told in line


@pytest.mark.parametrize(
    "body",
    [
        'recipients = ["{}"]',
        'recipients = "{}"',
        'recipients = [["{}"]]',
        f'recipients = ["{AGE_KEY}", "{AGE_KEY} {{}}"]',
        f'recipients = ["{AGE_KEY}"]\nidentity_file = "{{}}"',
        f'recipients = ["{AGE_KEY}"]\nidentity_file = ["{{}}"]',
    ],
)
def test_a_private_key_in_the_wrong_place_is_never_shown(paths: Paths, body: str) -> None:
    text = "AGE-SECRET-KEY-1XP6RJYMK88KC9K78H6M2V47MYQJ8LQENP6YFPX8C2E2ASNEMZARSGUSWSE"
    for key in (text, text.lower()):
        lines = problems(paths, f"{SMALLEST}[encryption]\n{body.format(key)}\n")
        assert "encryption." in lines[0]
        assert key not in "".join(lines)
        assert "xp6rjymk" not in "".join(lines).lower()


def test_a_source_that_a_pattern_leaves_out_is_refused(paths: Paths) -> None:
    text = '[backup]\nsources = ["/srv/backups/web"]\nexclude = [{}]\n' + STORE
    (line,) = problems(paths, text.replace("{}", '"backups/"'))
    assert '2: backup.sources: "/srv/backups/web" is left out by a pattern in exclude' in line
    assert load(paths, text.replace("{}", '"backups/", "!/srv/backups/web"'))
    assert load(paths, text.replace("{}", '"/srv/backups/web/tmp/"'))


def test_addresses_cannot_carry_headers(paths: Paths) -> None:
    for address in ("a@example.com\\nBcc: x@example.com", "a@b.c, d@e.f", "a b@c", "@c", "a@"):
        (line,) = problems(paths, SMALLEST + EMAIL.replace("b@example.com", address))
        assert "notify.email.to: " in line
    assert load(paths, SMALLEST + EMAIL.replace("b@example.com", "B <b@example.com>"))


def test_what_is_no_text_is_told_with_its_line(paths: Paths) -> None:
    path = write(paths, "")
    path.write_bytes(b"a = 1\n\xff = 2\n")
    assert told(paths, "prod") == ["profiles/prod.toml:2: is not UTF-8 text"]
    path.unlink()
    path.symlink_to(path)
    assert told(paths, "prod") == [
        "profiles/prod.toml: cannot be read: Too many levels of symbolic links"
    ]


def test_a_profile_in_the_project_is_named_from_there(paths: Paths) -> None:
    inside = replace(paths, root=paths.profiles.parent)
    write(inside, "x = 1\n")
    with pytest.raises(ProfileError, match=r"^profiles/prod\.toml:1: unknown key"):
        load_profile("prod", inside)


def test_brackets_that_never_end_are_told_in_a_line(paths: Paths) -> None:
    (line,) = problems(paths, "a = " + "[" * 20_000)
    assert line.startswith("profiles/prod.toml:1: ")
    assert "nested" in line
