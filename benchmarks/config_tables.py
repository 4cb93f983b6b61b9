"""Tables of the configuration's fields, rendered from their descriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from benchmarks.table import markdown
from hnet_vjepa.config import (
    ActionConfig,
    AttentionConfig,
    Config,
    DataConfig,
    EncoderAdaptationConfig,
    EncoderConfig,
    HeadsConfig,
    LanguageConfig,
    PlanConfig,
    PoolingConfig,
    PredictorConfig,
    PretrainConfig,
    ProbeConfig,
    RoutingConfig,
    StageConfig,
    TextConfig,
    VitConfig,
    WorldModelConfig,
)


def fields(section: type[BaseModel], prefix: str = "", without: type[BaseModel] | None = None) -> list[list[str]]:
    """Rows ``field, default, meaning`` of a section's own values; sub-sections have tables of their own.

    ``without``: fields that this base class has with the same default and description are left out.
    """
    rows = []
    for name, field in section.model_fields.items():
        if _is_section(field) or (without is not None and _same(field, without.model_fields.get(name))):
            continue
        assert field.description, f"{section.__name__}.{name} has no description"
        rows.append([f"`{prefix}{name}`", _default(field), field.description.replace("|", "\\|")])
    return rows


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.default, BaseModel) or "Config" in str(field.annotation)


def _same(field: FieldInfo, other: FieldInfo | None) -> bool:
    return other is not None and (field.default, field.description) == (other.default, other.description)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value: Any = field.default
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def table(sections: Sequence[tuple[str, type[BaseModel]]], without: type[BaseModel] | None = None) -> str:
    """One table of several sections; each has the prefix of its fields."""
    rows = [row for prefix, section in sections for row in fields(section, prefix, without)]
    return markdown(["field", "default", "meaning"], rows)


STAGES: list[tuple[str, type[BaseModel]]] = [
    ("pretrain.", PretrainConfig),
    ("language.", LanguageConfig),
    ("probe.", ProbeConfig),
    ("encoder_adaptation.", EncoderAdaptationConfig),
    ("action.", ActionConfig),
    ("heads.", HeadsConfig),
]
BACKBONE: list[tuple[str, type[BaseModel]]] = [
    ("encoder.", EncoderConfig),
    ("attention.", AttentionConfig),
    ("routing.", RoutingConfig),
    ("pooling.", PoolingConfig),
    ("vit.", VitConfig),
]
MODULES: list[tuple[str, type[BaseModel]]] = [
    ("predictor.", PredictorConfig),
    ("world_model.", WorldModelConfig),
    ("text.", TextConfig),
]
TABLES: dict[str, Callable[[], str]] = {
    "config-top": partial(table, [("", Config), ("data.", DataConfig)]),
    "config-backbone": partial(table, BACKBONE),
    "config-modules": partial(table, MODULES),
    "config-stage": partial(table, [("", StageConfig)]),
    "config-stages": partial(table, STAGES, StageConfig),
    "config-plan": partial(table, [("", PlanConfig)]),
}
