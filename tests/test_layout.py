"""What holds of the tree as a whole: who may import whom, what may be named, and that docs say what was measured."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import render

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "hnet_vjepa": set(),
    "planner_service": {"hnet_vjepa"},
    "sims": {"hnet_vjepa", "planner_service"},
    "cli": {"hnet_vjepa", "planner_service", "sims"},
    "benchmarks": {"hnet_vjepa", "planner_service", "sims", "cli"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        others = imported(file) & set(MAY_IMPORT) - {package}
        assert others <= MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {others - MAY_IMPORT[package]}"


def tracked() -> list[Path]:
    """Files under version control; outside a checkout, the source files."""
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        return [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".toml", ".yaml") and ".venv" not in p.parts]
    return [ROOT / line for line in run.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_path_of_a_machine_is_named() -> None:
    pattern = re.compile(r"(?<![\w.])/(home|root|work)/[\w.]")
    for file in tracked():
        if file.suffix in (".png", ".gif", ".safetensors") or file == Path(__file__).resolve():
            continue
        found = pattern.search(file.read_text(errors="ignore"))
        assert not found, f"{file.relative_to(ROOT)}: {found.group(0) if found else ''}"


def test_tables_say_what_the_results_say() -> None:
    for page in render.pages():
        assert render.rendered(page) == page.read_text(), f"{page.name}: run python -m benchmarks.render"


def written_pages() -> list[Path]:
    """All pages in Markdown that people write or read, without the generated cards."""
    return [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "docs").rglob("*.md")]


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page: lower case, hyphens for spaces, no other punctuation."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in written_pages():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
            if "://" in target or target.startswith("mailto:"):
                continue
            file = page.parent / target if target else page
            where = f"{page.relative_to(ROOT)} links to {target}"
            assert file.exists(), where
            assert not anchor or anchor in anchors(file), f"{where}#{anchor}"


def test_files_that_the_docs_name_exist() -> None:
    named = re.compile(
        r"`((?:hnet_vjepa|planner_service|sims|cli|benchmarks|tests|docs)/[\w/.-]+\.(?:py|yaml|json|toml|md))`"
    )
    for page in written_pages():
        if page.name != "CHANGELOG.md":
            for name in named.findall(page.read_text()):
                assert (ROOT / name).is_file(), f"{page.relative_to(ROOT)} names {name}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 165


def test_public_functions_and_classes_say_what_they_do() -> None:
    for package in ("hnet_vjepa", "planner_service", "sims", "cli", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            assert ast.get_docstring(tree) or not tree.body, f"{file.relative_to(ROOT)} has no docstring"
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{file.relative_to(ROOT)}: {node.name} has no docstring"


def test_the_help_page_comes_quickly_without_loading_torch() -> None:
    code = """
import sys
sys.argv = ["hnet", "--help"]
from cli.main import run
try:
    run()
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
