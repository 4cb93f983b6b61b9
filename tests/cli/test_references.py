"""Files and sections that help texts, advice and error messages name exist, and so do the commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import cli.main

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "hnet_vjepa", "planner_service", "sims")
GENERATED = {"CARD.md"}  # written beside a checkpoint


def strings() -> Iterator[tuple[str, str]]:
    """Every string constant of the packages, f-strings joined with {} for their values, and where it stands."""
    for file in [ROOT / "main.py", *(file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))]:
        inside: set[ast.AST] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                inside |= set(node.values)
                yield where, "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
                yield where, node.value


def sections(file: Path) -> set[str]:
    """Anchors of a Markdown file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing(text: str) -> list[str]:
    """What ``text`` names that does not exist: Markdown files, their sections, and sections of an unnamed README."""
    absent = re.findall(r"README(?!\.md)[^.;)]*", text)
    for name, section in re.findall(r"([\w./-]+\.md)\b(?:#([\w-]+))?", text):
        file = ROOT / name
        if Path(name).name not in GENERATED and not (file.is_file() and (not section or section in sections(file))):
            absent.append(f"{name}#{section}" if section else name)
    return absent


def test_files_and_sections_exist() -> None:
    found = [f"{where}: {name}" for where, text in strings() for name in missing(text)]
    assert not found
    assert any("docs/distributed_training.md" in text for _, text in strings())  # something was looked at


@pytest.mark.parametrize("text", ["see README, Install", "docs/none.md", "docs/training.md#none", "x (docs/none.md)"])
def test_the_check_finds_what_is_missing(text: str) -> None:
    assert len(missing(text)) == 1


def test_commands_exist() -> None:
    """'hnet data collect' in a text is a command, and its first option is one of that command."""
    top = typer.main.get_command(cli.main.app)
    looked_at = 0
    for where, text in strings():
        for words in re.findall(r"'hnet ([a-z]+(?: [a-z]+)*)((?: --[a-z-]+)?)[^']*'", text):
            command, names = top, words[0].split()
            while names and (children := getattr(command, "commands", None)):
                assert names[0] in children, f"{where}: 'hnet {words[0]}'"
                command = children[names.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            assert not words[1] or words[1].strip() in options, f"{where}: {words}"
            looked_at += 1
    assert looked_at > 20
