"""Promises of the house: imports go downward only, and each outside package has its own door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_tasks.paths import PROJECT_ROOT

# From the ground up. A module may import those before it, in its own room or in a lower one.
# A new module must be given its place here.
ROOMS = {
    "ground": "__init__ errors text temporary units paths progress patterns folders naming "
    "local_zone state limits memory workers inode_table problems mounts writeback mounted_at",
    "format": "signing signature_member footer content_hash line_table manifest manifest_reader "
    "posix_acl tarstream tar_fields tarread outer_tar sealed_footer",
    "stores": "stores.base stores.settings stores.directory_files stores.directory_writer "
    "stores.directory_small stores.directory "
    "stores.s3_errors stores.s3_answers stores.s3_bounds stores.s3_body stores.s3_access "
    "stores.s3_salvage stores.s3_upload stores.s3_writer stores.s3_small stores.s3 stores "
    "manifest_cache",
    "sources": "private mount_points source_counts sources xattrs stat_entry folder_names "
    "path_spool snapshot segments content",
    "archive": "compress recipients identities encrypt runs late_links plan recheck upload spool "
    "number_spool steps archive carry copies_ahead manifest_lines turns staging entry_headers "
    "version_keeper entry_writer cut_off chunk_reader copy_check chunk_process reader read_back "
    "authenticity foreign selection members",
    "tree": "folder_trust private_folder labels making_folders new_files metadata target "
    "member_spool finish_folders extract_policy extract extract_in_order target_path "
    "restore_target",
    "journal": "trust journal locks terminal",
    "profile": "cron_fields store_url toml_places secret_schema secret profile_types "
    "profile_settings profile_notify profile_model profile_files profile_problems profile_trust "
    "profile_template profile profile_mail profile_schema",
    "claim": "claim claim.claim_file claim.acceptance claim.clock claim.machine claim.ownership "
    "claim.keeper claim.evidence claim.proof claim.proof_notes claim.hold claim.hold_note",
    "jobs": "leftovers catalog census signing_key newest_seen neighbours accepted last_archive "
    "resume last_versions survey listing stages assembly backup_run clocks after_commit holding "
    "backup findings not_whole restore_request restore entry_check verified_before verify_report "
    "verify compare compare_sources drill_notes drill_place drill_command drill_report drill "
    "retention prune_guard prune adopt lifecycle_plan lifecycle_bucket lifecycle keygen key_check "
    "store_place",
    "telling": "mail mail_text notify",
    "schedule": "cron_block crontab scheduled schedule",
    "edge": "installation watch jobs report",
    "commands": "tasks",
}
ORDER = [module for modules in ROOMS.values() for module in modules.split()]

# Imports that point upward nevertheless, and why that does no harm.
UPWARD: dict[tuple[str, str], str] = {}

# Outside packages -> the modules that may import them.
DOORS = {
    "cryptography": ("signing",),
    "boto3": ("stores.s3", "lifecycle"),
    "botocore": ("stores.s3", "lifecycle"),
    "invoke": ("tasks",),
    "jinja2": ("mail_text",),
    "pyrage": ("recipients", "identities", "encrypt", "keygen", "key_check"),
    "rich": ("terminal",),
    "tomlkit": ("toml_places",),
}

CLOCKS = {
    *(f"datetime.{name}" for name in ("now", "utcnow", "today")),
    "date.today",
    *(f"time.{name}" for name in ("time", "time_ns", "localtime", "gmtime", "ctime")),
}
# time.monotonic is no clock: it measures how long something takes, and cannot be set.
READS_THE_CLOCK = {"tasks"}

# What takes a tenth of a second or more to import, and `invoke --list` has no use for.
HEAVY = (
    *("boto3", "botocore", "cryptography", "jinja2", "msgspec", "pathspec", "pydantic", "rich"),
    "tomlkit",
)


def sources() -> dict[str, ast.Module]:
    """Every module of the package, and the commands: name -> what it says."""
    files = [*PROJECT_ROOT.glob("backup_tasks/**/*.py"), PROJECT_ROOT / "tasks.py"]
    return {_name(file): ast.parse(file.read_bytes()) for file in files}


def _name(file: Path) -> str:
    dotted = ".".join(file.relative_to(PROJECT_ROOT).with_suffix("").parts)
    return dotted.removeprefix("backup_tasks.").removesuffix(".__init__")


MODULES = sources()


def imports(tree: ast.Module) -> Iterator[str]:
    """The full name of every module that is imported, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            assert node.module
            yield node.module
            if node.module.startswith("backup_tasks"):
                # `from backup_tasks import report` imports a module, not a name in one.
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (name for name in names if name.partition(".")[2] in MODULES)


def own_imports(tree: ast.Module) -> set[str]:
    """The modules of our own that it imports, without `backup_tasks.`."""
    own = {name for name in imports(tree) if name.partition(".")[0] == "backup_tasks"}
    return {name.partition(".")[2] or "__init__" for name in own}


def test_every_module_has_its_place() -> None:
    assert set(MODULES) - set(ORDER) == set()
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward_only(module: str) -> None:
    place = ORDER.index(module)
    upward = {name for name in own_imports(MODULES[module]) if ORDER.index(name) >= place}
    assert upward == {to for of, to in UPWARD if of == module}


@pytest.mark.parametrize("package", sorted(DOORS))
def test_an_outside_package_has_its_own_door(package: str) -> None:
    users = {
        module
        for module, tree in MODULES.items()
        if package in {name.partition(".")[0] for name in imports(tree)}
    }
    assert users, "nobody imports it any more"
    assert {user for user in users if not user.startswith(DOORS[package])} == set()


@pytest.mark.parametrize("module", sorted(set(MODULES) - READS_THE_CLOCK))
def test_the_clock_is_read_at_the_edge_only(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Attribute):
            called = ".".join(ast.unparse(node).split(".")[-2:])
            assert called not in CLOCKS, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert {alias.name for alias in node.names} <= {"monotonic", "sleep"}


def test_the_commands_start_without_what_they_may_not_need() -> None:
    script = f"import sys, tasks; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_no_property_fails_because_the_machine_is_busy() -> None:
    """Each example of a test may take as long as it likes, above all one that touches files."""
    from hypothesis import settings

    assert settings().deadline is None
    for file in (PROJECT_ROOT / "tests").glob("test_*.py"):
        given = re.findall(r"\bsettings\([^)]*deadline=(\w+)", file.read_text("utf-8"))
        assert set(given) <= {"None"}, file.name
