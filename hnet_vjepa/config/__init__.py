"""Typed configuration: what a model is and how each stage trains it. Unknown keys and bad values are refused."""

from hnet_vjepa.config.base import PHASES, PhaseName, Stage
from hnet_vjepa.config.config import Config
from hnet_vjepa.config.load import config_names, load_config, parse_config
from hnet_vjepa.config.model import (
    AttentionConfig,
    BackboneConfig,
    EncoderConfig,
    ModelConfig,
    PoolingConfig,
    PredictorConfig,
    RoutingConfig,
    TextConfig,
    VitConfig,
    WorldModelConfig,
)
from hnet_vjepa.config.phases import (
    ActionConfig,
    DataConfig,
    EncoderAdaptationConfig,
    HeadsConfig,
    LanguageConfig,
    PretrainConfig,
    ProbeConfig,
    StageConfig,
)
from hnet_vjepa.config.planning import PlanConfig
from hnet_vjepa.config.yaml_text import parse_yaml

__all__ = [
    "PHASES",
    "ActionConfig",
    "AttentionConfig",
    "BackboneConfig",
    "Config",
    "DataConfig",
    "EncoderAdaptationConfig",
    "EncoderConfig",
    "HeadsConfig",
    "LanguageConfig",
    "ModelConfig",
    "PhaseName",
    "PlanConfig",
    "PoolingConfig",
    "PredictorConfig",
    "PretrainConfig",
    "ProbeConfig",
    "RoutingConfig",
    "Stage",
    "StageConfig",
    "TextConfig",
    "VitConfig",
    "WorldModelConfig",
    "config_names",
    "load_config",
    "parse_config",
    "parse_yaml",
]
