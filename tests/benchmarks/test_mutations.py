"""The mutation run: faults of a small tree, of which one is seen and one is not; and the committed list."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import mutations
from benchmarks.mutations import FAULTS, Fault, chosen, planted, read_faults, report, run
from benchmarks.record import ROOT
from hnet_vjepa.errors import UserError

TESTS = ("test_sign.py",)
SEEN = Fault("other sign", "sign.py", "value > 0", "value < 0", TESTS)
NOT_SEEN = Fault("zero is positive", "sign.py", "> 0", ">= 0", TESTS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "sign.py").write_text("def positive(value):\n    return value > 0\n")
    (tree / "test_sign.py").write_text(
        "from sign import positive\ndef test_sign():\n    assert positive(2) and not positive(-2)\n"
    )
    (tree / "test_broken.py").write_text("def test_broken():\n    assert False\n")
    (tree / "ignored.txt").write_text("x")
    (tree / ".gitignore").write_text("ignored.txt\n")
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    return tree


def test_outcomes_are_kept_until_the_fault_its_file_or_its_tests_change(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults, calls = [SEEN, NOT_SEEN], list[str]()
    real = mutations.run_tests

    def counted(copy: Path, tests: tuple[str, ...], limit_s: float) -> mutations.Outcome:
        calls.append((copy / "sign.py").read_text().split("return ")[1].strip())
        assert not (copy / "ignored.txt").exists()
        return real(copy, tests, limit_s)

    monkeypatch.setattr(mutations, "run_tests", counted)
    outcomes = run(faults, tree, tmp_path / "work", 120)
    assert outcomes == {"other sign": "seen", "zero is positive": "not seen"}
    assert calls == ["value > 0", "value < 0", "value >= 0"]  # first without a fault, once for both
    assert (tree / "sign.py").read_text().endswith("value > 0\n")
    assert run(faults, tree, tmp_path / "work", 120) == outcomes and len(calls) == 3
    (tree / "test_sign.py").write_text(
        "from sign import positive\ndef test_sign():\n    assert positive(2) and not positive(0)\n"
    )
    assert set(run(faults, tree, tmp_path / "work", 120).values()) == {"seen"} and len(calls) == 6
    assert report(outcomes) == 1
    assert "not seen: zero is positive\nseen: 1 of 2 (50.0%" in capsys.readouterr().out


def test_tests_that_do_not_end_are_stopped(tree: Path) -> None:
    (tree / "test_endless.py").write_text("def test_endless():\n    while True: pass\n")
    assert mutations.run_tests(tree, ["test_endless.py"], 1) == "out of time"
    assert report({"endless": "out of time"}) == 0


def test_tests_that_fail_without_a_fault_are_distinguished(tree: Path, tmp_path: Path) -> None:
    broken = Fault("broken", "sign.py", "> 0", "< 0", ("test_broken.py",))
    outcomes = run([SEEN, broken], tree, tmp_path / "work", 120)
    assert outcomes == {"other sign": "seen", "broken": "fails anyway"}
    assert report(outcomes) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("gone", "sign.py", "value <= 0", "", TESTS), "old text occurs 0 times in sign.py; it must once"),
        (Fault("twice", "sign.py", "value", "", TESTS), "old text occurs 2 times in sign.py"),
        (Fault("no file", "other.py", "value", "", TESTS), "there is no file other.py"),
        (Fault("no test", "sign.py", "> 0", "", ("test_other.py",)), "there is no test file test_other.py"),
    ],
)
def test_a_fault_that_can_not_be_planted_is_named(tree: Path, tmp_path: Path, fault: Fault, message: str) -> None:
    with pytest.raises(UserError, match=rf"fault '{fault.name}': .*{message}"):
        run([SEEN, fault], tree, tmp_path / "work", 120)


def test_the_list_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    entry = '[[fault]]\nname = "{}"\nfile = "a.py"\nold = "x"\nnew = ""\ntests = ["t.py"]\n'
    path.write_text(entry.format("one") + entry.format("two"))
    assert read_faults(path) == [Fault(name, "a.py", "x", "", ("t.py",)) for name in ("one", "two")]
    path.write_text(entry.format("one") + entry.format("one"))
    with pytest.raises(UserError, match="the name 'one' occurs twice"):
        read_faults(path)
    path.write_text(entry.format("one").replace('tests = ["t.py"]', ""))
    with pytest.raises(UserError, match="fault 'one' lacks tests"):
        read_faults(path)


def test_a_sample_follows_its_seed() -> None:
    faults = [Fault(str(i), "a.py" if i % 2 else "b.py", "x", "", ("t.py",)) for i in range(20)]
    assert chosen(faults, None, None, 0) == faults
    assert chosen(faults, None, 5, 1) == chosen(faults, None, 5, 1) != chosen(faults, None, 5, 2)
    assert {fault.file for fault in chosen(faults, "a.py", 5, 1)} == {"a.py"}
    with pytest.raises(UserError, match="no fault has 'c\\.py'"):
        chosen(faults, "c.py", None, 0)


def test_every_committed_fault_can_be_planted() -> None:
    faults = read_faults(FAULTS)
    assert len(faults) >= 60
    for fault in faults:
        assert planted(fault, ROOT) != (ROOT / fault.file).read_text()
