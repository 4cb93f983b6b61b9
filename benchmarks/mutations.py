"""Mutation run: do the tests see realistic faults?

``python -m benchmarks.mutations`` plants each fault of ``benchmarks/mutations.toml``, one at a time, in a temporary
copy of the tree and runs the test files named beside it. A fault is seen when a test fails or runs out of time. The
exit status is 1 when less than GOAL of the faults are seen, and 2 when a fault can not be planted (its old text does
not occur exactly once) or a test file fails without any fault.

Outcomes are kept in the work directory, by the text of the fault, of its file and of its tests: an interrupted run
continues, and a fault is tried again once its file or its tests have changed. A run of the whole list writes
``benchmarks/results/mutations.json``. ``--sample N --seed S`` tries N faults chosen by the seed; take another seed each
time, and add faults to the list where code is added.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks.record import ROOT, write_result
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import write_json_atomic

FAULTS = Path(__file__).with_suffix(".toml")
WORK = Path("outputs/mutations")
GOAL = 0.95  # share of faults that the tests should see
LIMIT_S = 300.0  # for the tests of one fault
LINKED_BYTES = 2**20  # files at least this large are linked in the copy of the tree, not copied

SUFFIXES = (".py", ".toml", ".json", ".yaml")  # of files that can decide whether tests pass

Outcome = Literal["seen", "not seen", "out of time", "fails anyway"]


@dataclass(frozen=True)
class Fault:
    """One text of one file in place of another, and what should see it: test files, folders or single tests (::)."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_faults(path: Path) -> list[Fault]:
    """The list of faults. Raises UserError, naming the fault, for a missing or empty field or a name used twice."""
    faults: list[Fault] = []
    for entry in tomllib.loads(path.read_text()).get("fault", []):
        name = entry.get("name", f"number {len(faults) + 1}")
        missing = [field for field in ("name", "file", "old", "tests") if not entry.get(field)]
        if missing or "new" not in entry:
            raise UserError(f"{path.name}: fault '{name}' lacks {', '.join(missing or ['new'])}")
        if any(fault.name == name for fault in faults):
            raise UserError(f"{path.name}: the name '{name}' occurs twice")
        faults.append(Fault(name, entry["file"], entry["old"], entry["new"], tuple(entry["tests"])))
    return faults


def planted(fault: Fault, tree: Path) -> str:
    """The text of the fault's file with the fault. Raises UserError unless its old text occurs exactly once."""
    path = tree / fault.file
    if not path.is_file():
        raise UserError(f"fault '{fault.name}': there is no file {fault.file}")
    text = path.read_text()
    if text.count(fault.old) != 1:
        raise UserError(
            f"fault '{fault.name}': its old text occurs {text.count(fault.old)} times in {fault.file}; it must once"
        )
    for test in fault.tests:
        if not (tree / test.partition("::")[0]).exists():
            raise UserError(f"fault '{fault.name}': there is no test file {test}")
    return text.replace(fault.old, fault.new)


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files that git tracks or would track; large ones are linked."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=source, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        path = source / name
        if path.is_file():  # a tracked file may have been deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if path.stat().st_size < LINKED_BYTES:
                shutil.copy2(path, target / name)
            else:
                (target / name).symlink_to(path.resolve())


def run_tests(tree: Path, tests: Sequence[str], limit_s: float) -> Outcome:
    """Whether one of the test files fails in a tree. Raises UserError when pytest finds no tests to run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # Python recognises stale bytecode by time and size only, and a fault may change neither.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    if status in (4, 5):
        raise UserError(f"pytest found no tests to run in {', '.join(tests)}")
    return "not seen" if status == 0 else "seen"


def key_of(what: object, files: Sequence[Path]) -> str:
    """Changes with what is tried and with the content of files."""
    digest = hashlib.sha256(repr(what).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run(faults: Sequence[Fault], tree: Path, work: Path, limit_s: float) -> dict[str, Outcome]:
    """The outcome of each fault by name. Raises UserError for one that can not be planted, before any test runs."""
    for fault in faults:
        planted(fault, tree)
    path = work / "outcomes.json"
    known: dict[str, Outcome] = json.loads(path.read_text()) if path.is_file() else {}

    def outcome(key: str, tests: Sequence[str]) -> Outcome:
        if key not in known:
            known[key] = run_tests(copy, tests, limit_s)
            write_json_atomic(path, known)
        return known[key]

    work.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder)
        copy_tree(tree, copy)
        whole = key_of("tree", sorted(path for path in copy.rglob("*") if path.suffix in SUFFIXES and path.is_file()))
        without = {test: key_of((test, whole), []) for fault in faults for test in fault.tests}
        new = [test for test, key in without.items() if key not in known]
        # In one process, which shares what fixtures train; only if that fails, file by file below.
        if len(new) > 1 and run_tests(copy, new, limit_s * len(new)) == "not seen":
            known.update({without[test]: "not seen" for test in new})
        for number, fault in enumerate(faults, 1):
            begun, path_of_fault = time.monotonic(), copy / fault.file
            if any(outcome(without[test], [test]) != "not seen" for test in fault.tests):
                outcomes[fault.name] = "fails anyway"
            else:
                key, text = key_of(fault, [path_of_fault, *_files(copy, fault.tests)]), path_of_fault.read_text()
                path_of_fault.write_text(planted(fault, copy))
                try:
                    outcomes[fault.name] = outcome(key, fault.tests)
                finally:
                    path_of_fault.write_text(text)
            seconds = time.monotonic() - begun
            print(f"{number}/{len(faults)} {outcomes[fault.name]:12} {seconds:5.0f} s  {fault.name}", flush=True)
    return outcomes


def _files(tree: Path, tests: Sequence[str]) -> list[Path]:
    """The Python files of tests."""
    paths = [tree / test.partition("::")[0] for test in tests]
    return [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


def chosen(faults: Sequence[Fault], only: str | None, sample: int | None, seed: int) -> list[Fault]:
    """The faults whose file or name contains ``only``, or a sample of them, in the order of the list.

    Raises UserError when there is none.
    """
    some = [fault for fault in faults if only is None or only in fault.file or only in fault.name]
    if not some:
        raise UserError(f"no fault has '{only}' in its name or file")
    if sample is None or sample >= len(some):
        return some
    rows = random.Random(seed).sample(range(len(some)), sample)
    return [some[row] for row in sorted(rows)]


def report(outcomes: dict[str, Outcome]) -> int:
    """Print which faults were not seen and the share that was; return the exit status."""
    named = {kind: [name for name, outcome in outcomes.items() if outcome == kind] for kind in get_args(Outcome)}
    for kind in ("not seen", "fails anyway"):
        for name in named[kind]:
            print(f"{kind}: {name}")
    seen, tried = len(named["seen"]) + len(named["out of time"]), len(outcomes) - len(named["fails anyway"])
    if named["fails anyway"]:
        print("mutations: some tests fail, or take too long, without any fault", file=sys.stderr)
    if tried:
        print(f"seen: {seen} of {tried} ({seen / tried:.1%}; at least {GOAL:.0%} should be)")
    return 2 if named["fails anyway"] else int(seen < GOAL * tried)


def write(outcomes: dict[str, Outcome]) -> Path:
    """Write the outcomes of the whole list to ``benchmarks/results/mutations.json`` and return its path."""
    seen = sum(outcome != "not seen" for outcome in outcomes.values())
    metrics = {"mutations_seen_share": round(seen / len(outcomes), 4), "mutations": len(outcomes), "seen": seen}
    unseen = [name for name, outcome in outcomes.items() if outcome == "not seen"]
    return write_result("mutations", "python -m benchmarks.mutations", {"goal": GOAL}, metrics, not_seen=unseen)


def main() -> None:
    """Run the faults of the list."""
    parser = argparse.ArgumentParser(description="Do the tests see planted faults?")
    parser.add_argument("--only", help="only faults with this text in their name or file")
    parser.add_argument("--sample", type=int, metavar="N", help="only N faults, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for the tests of one fault")
    parser.add_argument("--work-dir", type=Path, default=WORK, help="where outcomes are kept")
    options = parser.parse_args()
    try:
        faults = chosen(read_faults(FAULTS), options.only, options.sample, options.seed)
        outcomes = run(faults, ROOT, options.work_dir, options.limit)
        if options.only is None and options.sample is None and "fails anyway" not in outcomes.values():
            print(write(outcomes))
    except UserError as error:
        print(f"mutations: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(report(outcomes))


if __name__ == "__main__":
    main()
