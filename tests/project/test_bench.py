"""The benches: the corpus is the same everywhere, figures are counted right, losses are shown."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backup_tasks.common.paths import PROJECT_ROOT
from bench.corpus import FULL, Corpus, Spec, choose_changed, plan_small_files
from bench.goals import RESTIC, US, ZSTD, judge
from bench.growth import MILLION, Growth, Point, load_growth, render_growth
from bench.measure import Work, WorkFailed, measure
from bench.noise import numbers
from bench.phases import Phase
from bench.render import render_results
from bench.results import Bytes, Results, Run, load_results, ratio, wall
from bench.rounds import rotated
from bench.rubbish import Rubbish
from bench.scale import fill_many, fill_one, plan_loads
from bench.tables import megabytes, render_table, seconds
from bench.trees import Print, differences, digest, fingerprint, summarize
from bench.wire import CountingRelay

SPEC = Spec("test", 200, 100_000, 2**20)


def run_of(phase: Phase, peer: str, wall_seconds: float, number: int = 1) -> Run:
    return Run(number, phase.value, peer, wall_seconds, wall_seconds / 2, 50 * 1024, 60 * 1024)


@pytest.fixture
def results() -> Results:
    """Three rounds in which we take half as long as restic, but in the full restore twice."""
    found = Results(date="2026-01-01", entries=127_000, rounds=3)
    for phase in Phase:
        for number, noise in ((1, 0.0), (2, 9.0), (3, -0.1)):
            ours = 20.0 if phase is Phase.RESTORE else 5.0
            found.runs.append(run_of(phase, US, ours + noise, number))
            found.runs.append(run_of(phase, RESTIC, 10 + noise, number))
            if phase is Phase.FIRST:
                found.runs.append(run_of(phase, ZSTD, 4 + noise, number))
    found.bytes.append(Bytes(Phase.FIRST.value, US, 1_234_567_890, 1000, 2_000_000))
    found.instant = {"invoke profiles": [0.1, 0.9, 0.2]}
    return found


# The corpus


def test_the_corpus_has_the_same_bytes_names_modes_and_times_on_every_machine(
    tmp_path: Path,
) -> None:
    corpus = Corpus(SPEC, tmp_path)
    corpus.make(say=lambda _: None)
    assert digest(fingerprint(corpus.root)) == (
        "50dfd77e90e9438d25bc7ed7b301595f68c14871678e0371070598fec169530c"
    )


def test_the_corpus_is_made_once(tmp_path: Path) -> None:
    said: list[str] = []
    Corpus(SPEC, tmp_path).make(said.append)
    Corpus(SPEC, tmp_path).make(said.append)
    assert len(said) == 1
    Corpus(replace(SPEC, files=4), tmp_path).make(said.append)
    assert len(said) == 2


def test_one_percent_of_the_files_changes_and_all_of_it_can_be_undone(tmp_path: Path) -> None:
    corpus = Corpus(SPEC, tmp_path)
    corpus.make(say=lambda _: None)
    before = fingerprint(corpus.root)
    assert corpus.change() == 2
    found = fingerprint(corpus.root)
    changed = [path for path in before if before[path].sha256 != found[path].sha256]
    assert len(changed) == 2
    assert corpus.unchanged_file.is_file()
    assert str(corpus.unchanged_file.relative_to(corpus.root)) not in changed
    # As when the bench was killed: whoever comes next begins with the same files.
    Corpus(SPEC, tmp_path).make(say=lambda _: None)
    assert fingerprint(corpus.root) == before


def test_the_full_corpus_is_as_large_as_it_says() -> None:
    files = list(plan_small_files(FULL))
    assert len({file.path for file in files}) == len(files) == 100_000
    assert len(choose_changed(FULL)) == 1000
    total = sum(file.size for file in files) + 3 * FULL.large_bytes
    assert 2.3e9 < total < 2.7e9
    folders = {parent for file in files for parent in Path(file.path).parents}
    # With the folder of the large files.
    assert 125_000 < len(files) + len(folders) + 4 < 129_000


def test_numbers_do_not_depend_on_the_byte_order_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = numbers("x", 2)
    monkeypatch.setattr(sys, "byteorder", "big" if sys.byteorder == "little" else "little")
    swapped = numbers("x", 2)
    assert [number.to_bytes(4, "big") for number in here] == [
        number.to_bytes(4, "little") for number in swapped
    ]


# Restored trees


def test_any_difference_of_a_restored_tree_is_named() -> None:
    one = Print(0o100644, 5_000_000_001, "aa")
    wanted = {"same": one, "gone": one, "content": one, "mode": one, "time": one}
    found = {
        "same": one,
        "more": one,
        "content": replace(one, sha256="bb"),
        "mode": replace(one, mode=0o100600),
        "time": replace(one, mtime_ns=5_000_000_000),
    }
    assert differences(wanted, found) == [
        "content: other content",
        "gone: missing",
        "mode: mode 100600 instead of 100644",
        "more: not in the corpus",
        "time: mtime 5000000000 instead of 5000000001",
    ]


def test_times_are_compared_in_the_unit_that_a_peer_keeps() -> None:
    one = Print(0o100644, 5_900_000_000, "aa")
    found = {"file": replace(one, mtime_ns=5_000_000_000)}
    assert differences({"file": one}, found, mtime_unit_ns=10**9) == []
    assert differences({"file": one}, found, mtime_unit_ns=10**8) != []


def test_many_differences_are_cut_short() -> None:
    assert summarize(["one"] * 10).count("\n") == 9
    assert summarize(["one"] * 1011).endswith("\nand 1,001 more")


# Measuring


def work(tmp_path: Path, *programs: str) -> Work:
    commands = tuple((sys.executable, "-c", program) for program in programs)
    return Work(commands, tmp_path, {"PATH": os.environ["PATH"]})


_BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_cpu_time_of_children_counts_and_that_of_the_bench_does_not(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BUSY!r}], check=True)"
    cost = measure(work(tmp_path, child))
    assert cost.cpu_seconds >= 0.3
    idle = measure(work(tmp_path, "pass"))
    assert idle.cpu_seconds < cost.cpu_seconds
    assert idle.wall_seconds > 0


def test_memory_is_that_of_the_largest_process_and_for_a_pipeline_the_sum_too(
    tmp_path: Path,
) -> None:
    ours = bytearray(300 * 2**20)  # which the measured programs must not inherit
    ours[:: 2**12] = b"x" * len(ours[:: 2**12])
    grow = "import sys; x = b'x' * (100 * 2**20); print('x'); sys.stdin.read()"
    cost = measure(work(tmp_path, grow, grow))
    assert 100 * 1024 < cost.largest_kib < 200 * 1024
    assert 200 * 1024 < cost.summed_kib < 300 * 1024
    single = measure(work(tmp_path, "pass"))
    assert single.largest_kib == single.summed_kib < 100 * 1024


def test_what_a_pipeline_passes_on_arrives(tmp_path: Path) -> None:
    check = "import sys; sys.exit(sys.stdin.read() != 'x' * 500_000)"
    measure(work(tmp_path, "print('x' * 500_000, end='')", check))


@pytest.mark.parametrize("place", [0, 1])
def test_a_command_that_fails_anywhere_in_a_pipeline_fails_it(tmp_path: Path, place: int) -> None:
    programs = ["import sys; sys.stdin.read()"] * 2
    programs[place] = "import sys; sys.exit('out of luck')"
    with pytest.raises(WorkFailed, match="out of luck"):
        measure(work(tmp_path, *programs))


def test_an_interrupted_measurement_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = (
        "import os, sys, time\n"
        "open(f'{os.getpid()}.new', 'x').close()\n"
        "os.rename(f'{os.getpid()}.new', f'{os.getpid()}.pid')\n"
        "time.sleep(600)"
    )

    def interrupted(process_id: int, options: int) -> None:
        while len(list(tmp_path.glob("*.pid"))) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "wait4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(work(tmp_path, endless, endless))
    give_up_at = time.monotonic() + 60  # of the ten minutes that they would sleep
    while any(is_running(file.stem) for file in tmp_path.glob("*.pid")):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def is_running(process_id: str) -> bool:
    """False also for one that has ended and that nobody has asked about yet."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = Path("/proc", process_id, "stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    return False


def test_the_relay_counts_every_byte_both_ways_and_changes_none() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body[::-1])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    body = os.urandom(1_000_000)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with CountingRelay(f"http://127.0.0.1:{server.server_address[1]}") as relay:
            connection = http.client.HTTPConnection(relay.endpoint.removeprefix("http://"))
            connection.request("PUT", "/", body)
            assert connection.getresponse().read() == body[::-1]
            connection.close()
            assert 1_000_000 < relay.sent_bytes < 1_001_000
            assert 1_000_000 < relay.received_bytes < 1_001_000
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_every_peer_begins_once_in_as_many_rounds() -> None:
    assert [rotated("abc", place)[0] for place in range(4)] == ["a", "b", "c", "a"]
    assert rotated("abc", 1) == ["b", "c", "a"]


def test_trees_are_removed_when_it_is_time_and_what_follows_waits_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    rubbish = Rubbish()
    rubbish.wait()
    (tmp_path / "tree").mkdir()
    rubbish.add(tmp_path / "tree")
    assert (tmp_path / "tree").exists()
    rubbish.clear()
    assert not (tmp_path / "tree").exists()
    rubbish.wait()
    assert slept[0] == 0
    assert 0 < slept[1] <= 65


# Results


def test_results_are_read_back_as_they_were_written(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    (tmp_path / "results.json").write_text('{"runs": []}')
    with pytest.raises(ValueError, match="was not written by this bench"):
        load_results(tmp_path / "results.json")


def test_medians_ratios_and_peaks_are_those_of_all_rounds(results: Results) -> None:
    assert results.median(Phase.FIRST.value, US, wall) == 5
    figures = results.figures(Phase.FIRST.value, US, wall)
    assert figures is not None
    assert (figures.smallest, figures.largest) == (4.9, 14)
    assert results.median(Phase.RESTORE.value, ZSTD, wall) is None
    assert results.peak_kib(US) == (50 * 1024, Phase.VERIFY.value)
    assert results.peak_kib("nobody") is None
    assert ratio(1, 4) == 0.25
    assert ratio(None, 4) is ratio(1, None) is ratio(1, 0) is None


def test_a_goal_is_reached_missed_or_not_measured_as_the_medians_say(results: Results) -> None:
    told = {(one.work, one.goal): (one.found, one.told) for one in judge(results)}
    assert told["first backup, wall", "at most 0.40 x `restic`"] == ("0.50 x", "**missed**")
    zstd = "at most 1.00 x `tar \\| zstd -T0 \\| aws`"
    assert told["first backup, wall", zstd] == ("1.25 x", "**missed**")
    assert told["full restore, wall", "at most 0.80 x `restic`"] == ("2.00 x", "**missed**")
    assert told["list, wall", "at most 0.90 x `restic`"] == ("0.50 x", "reached")
    memory = "peak memory, 127,000 entries"
    assert told[memory, "at most 1.00 x `restic`"] == ("1.00 x", "reached")
    assert told[memory, "below 200 MiB"] == ("50 MiB", "reached")
    assert told["peak memory, 1 million files", "below 400 MiB"] == ("-", "not measured")
    assert told["`invoke profiles`, wall", "below 0.3 s"] == ("0.20 s", "reached")


def test_the_goals_of_growth_are_judged_by_what_the_other_bench_measured(results: Results) -> None:
    growth = Growth(points=[point(MILLION, 1000, 450), point(1, 20 * 2**30, 90)])
    told = {one.work: (one.found, one.told) for one in judge(results, growth)}
    assert told["peak memory, 1 million files"] == ("450 MiB", "**missed**")
    assert told["peak memory, one file of 20 GiB"] == ("90 MiB", "reached")


def test_the_report_shows_every_peer_of_every_work_also_where_we_lose(results: Results) -> None:
    report = render_results(results)
    assert report.count("**missed**") >= 3
    restore = report.split("## Full restore")[1].split("## ")[0].splitlines()
    rows = [line for line in restore if line.startswith("| ")]
    assert rows[1].startswith("| restic | 10.0 s | 9.90..19.0 | 1.00 x | 5.00 s |")
    assert rows[2].startswith("| **backup-tasks** | 20.0 s | 19.9..29.0 | 2.00 x | 10.0 s |")
    assert "50 MiB (60 MiB)" in rows[1]
    assert "| 1,235 MB | 0.00 MB | 2.00 MB |" in report
    # A bar within a cell would shift all that follows.
    assert "| tar \\| zstd -T0 \\| aws |" in report


def test_figures_have_three_digits_and_tables_are_markdown() -> None:
    assert [seconds(value) for value in (0.4312, 9.996, 12.44, 99.96, 1234.5)] == [
        *("0.43 s", "10.0 s", "12.4 s", "100 s", "1,234 s")
    ]
    assert megabytes(None) == seconds(None) == "-"
    table = render_table(("a", "b"), [("c", "d")])
    assert table == "| a | b |\n|---|---:|\n| c | d |\n"


# Growth


def point(files: int, content_bytes: int, peak_mib: int) -> Point:
    name = f"{files:,} files"
    return Point(name, files, content_bytes, "first backup", 2, 1, peak_mib * 1024, 10**6)


def test_growth_is_read_back_and_shows_what_was_left_out(tmp_path: Path) -> None:
    growth = Growth(points=[point(1000, 10**6, 70)], skipped={"one file": "66 GiB are needed"})
    growth.save(tmp_path / "scale.json")
    assert load_growth(tmp_path / "scale.json") == growth
    report = render_growth(growth)
    row = "| 1,000 files | 1.00 MB | 2.00 s | 1.00 s | 1,000 µs | 70 MiB | 1.00 MB |"
    assert row in report
    assert "- one file: 66 GiB are needed" in report
    assert growth.million_peak_mib() is None


def test_loads_are_as_many_and_as_large_as_they_say(tmp_path: Path) -> None:
    assert [load.name for load in plan_loads(1)] == [
        *("100,000 files", "300,000 files", "1,000,000 files", "one file of 20 GiB")
    ]
    fill_many(tmp_path, 250)
    assert sum(1 for path in tmp_path.rglob("*") if path.is_file()) == 250
    fill_one(tmp_path, 40_000_000)
    large = (tmp_path / "large").stat()
    assert large.st_size == 40_000_000
    assert large.st_blocks * 512 >= large.st_size  # not sparse


# The repository


def test_no_committed_report_names_a_machine_or_its_folders() -> None:
    for name in ("results.md", "results.json", "scale.md", "scale.json"):
        file = PROJECT_ROOT / "bench" / name
        if file.exists():
            text = file.read_text()
            assert os.uname().nodename not in text
            assert "/home/" not in text
            assert str(PROJECT_ROOT) not in text
