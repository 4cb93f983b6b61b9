"""YAML as configurations use it: what reads differently to people and to YAML 1.1 is refused or read as it looks."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hnet_vjepa.errors import UserError


class _Loader(yaml.SafeLoader):
    """A safe loader without aliases and repeated keys; only true and false are truth values, 010 is no number."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # nested, they grow a small file to any size
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"aliases (*{event.anchor}) are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is in lines {seen[key]} and {line}")
            if isinstance(key, str | int | float):
                seen[key] = line
        return super().construct_mapping(node, deep)


_DIGITS, _EXPONENT = "(0|[1-9][0-9_]*)", "[eE][-+]?[0-9]+"
for _tag, _pattern, _first in (
    ("bool", "true|True|false|False", "tTfF"),
    ("null", "~|null|Null|", ["~", "n", "N", ""]),
    ("int", f"[-+]?{_DIGITS}", "-+0123456789"),
    ("float", rf"[-+]?({_DIGITS}?\.[0-9]+|{_DIGITS}\.)({_EXPONENT})?", "-+.0123456789"),
    ("float", rf"[-+]?{_DIGITS}{_EXPONENT}|[-+]?\.(inf|nan)", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text stands for. Raises UserError, beginning with ``where``, when it is not YAML.

    Keys that come twice and aliases are refused; ``yes`` and ``010`` are texts.
    """
    try:
        return yaml.load(text, _Loader)
    # PyYAML lets through what its constructors of numbers and so on raise: ValueError, KeyError and others.
    except Exception as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
