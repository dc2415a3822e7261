"""Apply small faults to the package, one at a time, and report those that no test finds.

``python tests/mutants.py`` goes through ``mutants.toml``. It applies each fault to a copy of the repository, runs the
test file named with it, then the whole short suite until a test fails. You can stop it and run it again: it resumes
where it was, or starts over with ``--again``. It writes ``mutants.md``; exit code 1 if a fault survives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PARTS = ("ksched", "tests", "docs", "benchmarks", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml")
NEEDED = ("executor", "layout", "buffers", "noise", "samplers", "schedules", "processes", "drop-ins", "adapter")

# The whole suite goes to several workers of its own, where pytest-xdist is there.
SHARED = ("-n", "auto", "--dist", "worksteal") if find_spec("xdist") else ()

Mutant = dict[str, Any]


def key_of(mutant: Mutant) -> str:
    """What a result is kept under: a fault that is changed is tried again."""
    return hashlib.sha256(json.dumps([mutant[k] for k in ("file", "old", "new")]).encode()).hexdigest()[:16]


def read_mutants() -> list[Mutant]:
    """The faults, each checked against the current files."""
    mutants: list[Mutant] = tomllib.loads((TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    for mutant in mutants:
        count = (ROOT / mutant["file"]).read_text(encoding="utf-8").count(mutant["old"])
        if count != 1:
            raise SystemExit(f"{mutant['file']} has {count} of {mutant['old']!r}: mend mutants.toml")
        if not (TESTS / mutant["tests"]).exists():
            raise SystemExit(f"there is no tests/{mutant['tests']}")
    few = {group: n for group in NEEDED if (n := sum(m["group"] == group for m in mutants)) < 5}
    if few:
        raise SystemExit(f"every part needs 5 faults at least; too few: {few}")
    return mutants


def fails(folder: Path, *tests: str, seconds: float) -> str | None:
    """The first failing test of some files in a copy, None if all pass; one that runs too long fails too."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return "it takes too long"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0].partition(" ")[2] if lines else f"pytest ended with {done.returncode}"


def tried(mutant: Mutant, folder: Path, quick: bool) -> dict[str, Any]:
    """Apply a fault to a copy, run the tests, and take it back."""
    file, began = folder / mutant["file"], time.monotonic()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    try:
        first = Path("tests", mutant["tests"]).as_posix()
        killer = fails(folder, first, seconds=300)
        if killer is None and not quick and "equivalent" not in mutant:
            killer = fails(folder, "tests", *SHARED, seconds=3600)
    finally:
        file.write_text(text, encoding="utf-8")
    return {"killer": killer, "seconds": round(time.monotonic() - began, 1)}


def page(mutants: list[Mutant], results: dict[str, Any]) -> str:
    """The table of all faults."""
    lines = [
        "# Mutants",
        "",
        "What `python tests/mutants.py` found: every small fault, and the test that finds it.",
        "",
    ]
    lines += ["| part | file | fault | found by |", "|---|---|---|---|"]
    for mutant in mutants:
        result = results.get(key_of(mutant))
        found = "not tried" if result is None else result["killer"]
        if found is None:
            found = f"none can: {mutant['equivalent']}" if "equivalent" in mutant else "**no test**"
        old, new = (" ".join(mutant[k].split()).replace("|", "\\|") for k in ("old", "new"))
        shown = f"`{old[:60]}` becomes `{new[:60]}`" if new else f"`{old[:60]}` is left out"
        lines.append(f"| {mutant['group']} | `{mutant['file'].removeprefix('ksched/')}` | {shown} | {found} |")
    counts = Counter(mutant["group"] for mutant in mutants)
    lines += ["", ", ".join(f"{group}: {n}" for group, n in counts.items()) + f"; {len(mutants)} in all.", ""]
    return "\n".join(lines)


def main() -> None:
    """Go through the faults that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="only the file that is named; what survives is not noted")
    parser.add_argument("--group", help="only the faults of this part")
    given = parser.parse_args()
    mutants, store = read_mutants(), ROOT / ".mutants.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() and not given.again else {}
    waiting = [m for m in mutants if key_of(m) not in results and given.group in (None, m["group"])]
    folders: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as above, ThreadPoolExecutor(given.workers) as pool:
        for number in range(given.workers):
            copy = Path(above, str(number))
            for part in PARTS:
                source = ROOT / part
                if source.is_dir():
                    shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "_build"))
                elif source.exists():
                    shutil.copy(source, copy / part)
            folders.put(copy)

        def work(mutant: Mutant) -> None:
            folder = folders.get()
            try:
                result = tried(mutant, folder, given.quick)
            finally:
                folders.put(folder)
            if result["killer"] or not given.quick or "equivalent" in mutant:
                results[key_of(mutant)] = result
            store.write_text(json.dumps(results))
            print(f"{result['seconds']:6.1f} s  {mutant['file']}: {result['killer'] or 'SURVIVES'}", flush=True)

        list(pool.map(work, waiting))
    (TESTS / "mutants.md").write_text(page(mutants, results), encoding="utf-8")
    alive = [m for m in mutants if (r := results.get(key_of(m))) and r["killer"] is None and "equivalent" not in m]
    print(f"{len(alive)} of {len(results)} survive")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
