"""This project beside what a user would pick instead: the whole bench.

.venv/bin/python -m bench.side_by_side --size small --rounds 3
.venv/bin/python -m bench.side_by_side --render         the report again, without measuring
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT
from bench.corpus import SIZES, Corpus
from bench.growth import load_growth
from bench.instant import measure_instant
from bench.machine import describe_machine, describe_peers
from bench.render import render_results
from bench.results import Results, load_results
from bench.rounds import Bench
from bench.server import VOLUME_MEBIBYTES
from bench.session import HERE, ends_tidily, report_folder, working_folder
from bench.trees import digest, fingerprint
from tests.support.s3_server import start_s3_server

# The files, up to three archives of each peer at half their size, and each peer's restored tree.
_NEEDED_TIMES = 14


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=HERE / "work", help="for all that is made")
    parser.add_argument("--results", type=Path, help="folder of the report")
    parser.add_argument("--render", action="store_true", help="write the report anew, and no more")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds: at least one")
    work = asked.folder.resolve()
    tools = work / "venv"
    results = asked.results or report_folder(asked.size, work)
    with ends_tidily():
        if not asked.render:
            run_bench(asked.size, asked.rounds, work, tools, results / "results.json")
        write_report(results, tools)


def run_bench(size: str, rounds: int, work: Path, tools: Path, file: Path) -> None:
    """Measure everything. Leaves the corpus, and in `file` all rounds that came to their end."""
    started = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(SIZES[size], work)
    corpus.make()
    tree = fingerprint(corpus.root)
    total = sum((corpus.root / path).stat().st_size for path, one in tree.items() if one.sha256)
    _check_space(work, total)
    results = Results(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine={**describe_machine(), **describe_peers(tools)},
        entries=len(tree),
        rounds=0,
        corpus={
            "size": size,
            "files": f"{sum(1 for one in tree.values() if one.sha256):,}",
            "entries": f"{len(tree):,}",
            "bytes": f"{total / 1e9:.2f} GB",
            "digest": digest(tree)[:16],
        },
    )
    with (
        working_folder(work) as place,
        start_s3_server(place / "server", VOLUME_MEBIBYTES) as server,
    ):
        bench = Bench(server, corpus, place, tools / "bin", results)
        results.instant = measure_instant(place / "instant")
        bench.count_bytes()
        for number in range(1, rounds + 1):
            bench.play(number)
            results.rounds = number
            results.save(file)
    print(f"measured in {(time.monotonic() - started) / 60:.1f} minutes")


def write_report(folder: Path, tools: Path) -> None:
    """results.md and results.svg from results.json, and scale.json where there is one."""
    results = load_results(folder / "results.json")
    scale = folder / "scale.json"
    growth = load_growth(scale) if scale.exists() else None
    (folder / "results.md").write_text(render_results(results, growth))
    # In the environment that has matplotlib, which the project itself does not need.
    python, files = str(tools / "bin" / "python"), (folder / "results.json", folder / "results.svg")
    subprocess.run(
        [python, "-m", "bench.plot", *(str(file.resolve()) for file in files)],
        cwd=PROJECT_ROOT,
        check=True,
    )
    print(f"wrote results.md and results.svg to {folder}")


def _check_space(work: Path, corpus_bytes: int) -> None:
    needed, free = _NEEDED_TIMES * corpus_bytes, shutil.disk_usage(work).free
    if free < needed:
        raise RuntimeError(
            f"{work} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed; "
            "name another folder with BENCH_FOLDER=..., or take SIZE=small"
        )


if __name__ == "__main__":
    main()
