"""Configurations from YAML files: packaged ones by name, files of one's own, single fields on the command line."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from hnet_vjepa.config.config import Config
from hnet_vjepa.config.yaml_text import parse_yaml
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.migration import current_field, rename_fields

log = logging.getLogger(__name__)


def config_names() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = resources.files("hnet_vjepa") / "configs"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_config(name_or_path: str, overrides: dict[str, Any] | None = None) -> Config:
    """Load a configuration by name (``fetch_reach``) or from a YAML file.

    A file may begin with ``base: NAME``, one of the configurations that come along, and say what differs from it.
    ``overrides`` maps dotted fields to values (``{"action.steps": 10}``). Raises UserError for a file that cannot be
    read or is not YAML, and for a wrong field: with its name, the value and what is allowed.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"no configuration file {path}")
        text, where = _read(path), str(path)
    elif name_or_path in config_names():
        text, where = _packaged(name_or_path), name_or_path
    else:
        raise one_of("config", name_or_path, [*config_names(), "a path to a .yaml file"])
    values = _with_base(_renamed(_mapping(text, where), where), where)
    for field, value in current_fields(overrides or {}, where).items():
        *sections, last = field.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"config {where}: '{section}' in '{field}' is not a section")
        target[last] = value
    return parse_config(values, where)


def current_fields(overrides: dict[str, Any], where: str) -> dict[str, Any]:
    """Dotted fields with old names replaced; one line of the log names the new ones."""
    found = {field: current_field(field) for field in overrides}
    _log_renamed([(old, new) for old, new in found.items() if old != new], where)
    return {found[field]: value for field, value in overrides.items()}


def _renamed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """A file's own fields with old names replaced."""
    current, renamed = rename_fields(values, where)
    _log_renamed(renamed, where)
    return current


def _log_renamed(renamed: list[tuple[str, str]], where: str) -> None:
    if renamed:
        log.warning("config %s: %s", where, "; ".join(f"{old} is now called {new}" for old, new in renamed))


def _packaged(name: str) -> str:
    return (resources.files("hnet_vjepa") / "configs" / f"{name}.yaml").read_text()


def _mapping(text: str, where: str) -> dict[str, Any]:
    values = parse_yaml(text, f"config {where}")
    if not isinstance(values, dict):
        raise UserError(f"config {where} must be a mapping of fields to values")
    return values


def _with_base(values: dict[str, Any], where: str) -> dict[str, Any]:
    """A file's fields over those of the configuration that it is based on, if on any."""
    if "base" not in values:
        return values
    own = {field: value for field, value in values.items() if field != "base"}
    if values["base"] not in config_names():
        raise one_of(f"config {where}: base", str(values["base"]), config_names())
    return _over(_with_base(_mapping(_packaged(values["base"]), values["base"]), values["base"]), own)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a field, ``above`` counts."""
    merged = dict(below)
    for field, value in above.items():
        under = below.get(field)
        merged[field] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"config {path} is not text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror}") from error


def parse_config(values: dict[str, Any], where: str) -> Config:
    """Validate a configuration. Raises UserError naming every wrong field with what is allowed.

    Old field names are accepted; one line of the log names the new ones.
    """
    values = _renamed(values, where)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = (line for problem in error.errors() for line in _explain(problem))
        raise UserError(f"config {where}: {'; '.join(problems)}") from error


def _explain(problem: Any) -> list[str]:
    """Sentences ``field = value: what is allowed`` about one of pydantic's problems."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # from refuse: the fields' names begin at the section
        return [f"{field}.{line}".lstrip(".") for line in str(problem["ctx"]["error"]).split("\n")]
    if problem["type"] != "extra_forbidden":
        return [f"{field or '(top)'} = {problem['input']!r}: {problem['msg']}"]
    section: Any = Config
    for part in problem["loc"][:-1]:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return [f"unknown field {field}; allowed there: {', '.join(section.model_fields)}"]
