"""Typed configuration: what a model is and how each phase trains it. Unknown keys and bad values are refused."""

from __future__ import annotations

import logging
import math
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.migration import rename_fields

log = logging.getLogger(__name__)

PhaseName = Literal["pretrain", "language", "probe", "action"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
Stage = Literal["pretrain", "language", "probe", "encoder_adaptation", "action", "heads"]
"""What the one loop trains: every phase; ``action`` has a second half, ``heads``, and may begin with ``grounding``."""

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Stages = Annotated[tuple[Positive, ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _refuse(problems: list[str]) -> None:
    """Raise ValueError when fields do not fit together: one ``field = value: what is allowed`` per line."""
    if problems:
        raise ValueError("\n".join(problems))


def _indivisible(field: str, heads: int, widths: dict[str, int]) -> list[str]:
    """Say what is wrong when ``heads`` does not divide every one of the named widths."""
    if not any(width % heads for width in widths.values()):
        return []
    common = math.gcd(*widths.values())
    allowed = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
    named = " and ".join(f"{name} ({width})" for name, width in widths.items())
    return [f"{field} = {heads}: must divide {named}; choose one of: {allowed}"]


class EncoderConfig(_Section):
    """``convolutions``: LowLevelEncoder.

    ``patches``, which chunks are measured against: PatchEncoder, with patches as large as the other's cells, as wide as
    its last stage, and with as many blocks as it has in all stages.
    """

    kind: Literal["convolutions", "patches"] = "convolutions"
    stem_width: Positive = 32
    stem_stride: int = Field(default=4, gt=0, multiple_of=2)
    widths: Stages = (32, 64)
    depths: Stages = (1, 1)
    times: Stages = Field(default=(1, 1), description="frames that the blocks of a stage look at")

    @model_validator(mode="after")
    def _stages(self) -> EncoderConfig:
        for name in ("depths", "times"):
            given = getattr(self, name)
            if len(given) != len(self.widths):
                wanted = f"must have one entry per stage, as many as widths ({len(self.widths)})"
                _refuse([f"{name} = {list(given)}: {wanted}"])
        if self.kind == "patches" and set(self.times) != {1}:
            _refuse([f"times = {list(self.times)}: patches are those of a frame alone, so every entry must be 1"])
        return self


class AttentionConfig(_Section):
    """NativeSparseAttention."""

    heads: Positive = 4
    cube: tuple[Positive, Positive, Positive] = (1, 4, 4)
    selected: Positive = 2
    radius: tuple[NotNegative, NotNegative, NotNegative] = (1, 1, 1)


class RoutingConfig(_Section):
    """What makes tokens of cells. ``chunks``: SparseRouting with a grid of rows x columns prototypes.

    The others are what chunks are measured against (models.hnet.tokenizers), with rows * columns tokens.
    """

    tokenizer: Literal["chunks", "grid", "merge", "random"] = "chunks"
    grid: tuple[Positive, Positive] = (5, 5)
    prior_strength: Weight = 6.0
    scale: float = Field(default=2.0, gt=0)
    placed: bool = Field(default=False, description="tokens say where they lie and how large they are when pooled")
    tokens: float | None = Field(
        default=None,
        ge=1,
        description="chunks: how many are left in the mean of all frames, the most alike joined; none: all",
    )

    @model_validator(mode="after")
    def _tokens(self) -> RoutingConfig:
        if self.tokens is not None:
            most = self.grid[0] * self.grid[1]
            if self.tokenizer != "chunks":
                _refuse([f"tokens = {self.tokens:g}: is for tokenizer = chunks; {self.tokenizer} makes rows * columns"])
            if self.tokens > most:
                _refuse([f"tokens = {self.tokens:g}: must be at most grid's {most} prototypes"])
        return self


class PoolingConfig(_Section):
    """What makes rows x columns slots of chunks: LearnedAttentionPooling, or GraphPooling with so many neighbours."""

    kind: Literal["attention", "graph"] = "attention"
    grid: tuple[Positive, Positive] = (3, 3)
    prior_strength: Weight = 4.0
    size_weight: Fraction = Field(
        default=1.0, description="attention: 1, a token weighs as much as its cells; 0, all tokens weigh the same"
    )
    neighbours: Positive = Field(default=4, description="graph: chunks that each chunk hears of")


class VitConfig(_Section):
    """Transformer on the chunks."""

    depth: Positive = 2
    heads: Positive = 4
    recompute: bool = False


class BackboneConfig(_Section):
    """HNetViT."""

    encoder: EncoderConfig = EncoderConfig()
    attention: AttentionConfig = AttentionConfig()
    routing: RoutingConfig = RoutingConfig()
    pooling: PoolingConfig = PoolingConfig()
    vit: VitConfig = VitConfig()

    @property
    def slots(self) -> int:
        """M', the number of slots of a window."""
        return self.pooling.grid[0] * self.pooling.grid[1]

    @model_validator(mode="after")
    def _heads(self) -> BackboneConfig:
        width = {"the last of encoder.widths": self.encoder.widths[-1]}
        sparse = _indivisible("attention.heads", self.attention.heads, width)
        _refuse(sparse + _indivisible("vit.heads", self.vit.heads, width))
        return self


class _Transformer(_Section):
    """A stack of transformer blocks."""

    width: Positive = 64
    depth: Positive = 2
    heads: Positive = 4

    @model_validator(mode="after")
    def _heads(self) -> Self:
        _refuse(_indivisible("heads", self.heads, self._split_among_heads()))
        return self

    def _split_among_heads(self) -> dict[str, int]:
        """The widths that are cut into ``heads`` equal parts, by name."""
        return {"width": self.width}


class PredictorConfig(_Transformer):
    """Predictor of masked chunks."""


class WorldModelConfig(_Transformer):
    """Planning state and dynamics."""

    state_dim: Positive = 32
    dynamics: Literal["transformer", "flat", "prefix"] = "flat"
    flat_width: Positive = Field(default=512, description="width of the flat and the prefix dynamics")
    inverse_width: Positive = 256
    policy_prior_width: Positive = Field(default=384, description="width of the learnt proposal")
    macro_latent_dim: NotNegative = Field(
        default=0, description="numbers that say what happens in a coarse step; 0: no coarse model, no sub-goals"
    )

    def _split_among_heads(self) -> dict[str, int]:
        return {"width": self.width, "what the probe reads, twice state_dim": 2 * self.state_dim}


class TextConfig(_Transformer):
    """Text tower: hashed words, a small transformer (so that word order counts), one vector."""

    buckets: int = Field(default=2048, ge=2, description="one of them is for padding")
    words: Positive = 24
    depth: Positive = 1
    embedding: Positive = 64


class ModelConfig(_Section):
    """All modules."""

    backbone: BackboneConfig = BackboneConfig()
    predictor: PredictorConfig = PredictorConfig()
    world_model: WorldModelConfig = WorldModelConfig()
    text: TextConfig = TextConfig()


class PhaseConfig(_Section):
    """What every phase has: the one loop's settings."""

    steps: Positive
    batch_size: Positive = 32
    clip_frames: Positive = 4
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: Weight = 0.01
    warmup: Fraction = 0.1
    clip_norm: float = Field(default=1.0, gt=0)
    accumulate: Positive = 1
    save_every: Positive = 50
    log_every: Positive = 20


class PretrainConfig(PhaseConfig):
    """Masked prediction of chunks against an EMA target."""

    mask_ratio: float = Field(default=0.5, gt=0, lt=1, description="share of the slots that are hidden")
    future_probability: Fraction = Field(default=0.3, description="how often the last window is hidden instead")
    ema: float = Field(default=0.99, gt=0, lt=1)
    vicregl: Weight = 0.02
    ratio: Weight = 0.03
    entropy: Weight = 0.0
    boundary: Weight = 0.0
    reconstruction: Weight = 0.1
    compression: float = Field(default=4.0, gt=1, description="target of the ratio loss: grid cells per live chunk")


class LanguageConfig(PhaseConfig):
    """NT-Xent between the planning state and captions, and an energy between the two."""

    temperature: float = Field(default=0.1, gt=0)
    energy: Weight = 0.5


class ProbeConfig(PhaseConfig):
    """Attentive probe on labels."""

    coherence: Weight = 0.05


class ActionConfig(PhaseConfig):
    """Dynamics: one step and rollouts, inverse dynamics, variance and covariance."""

    clip_frames: int = Field(default=6, ge=3, description="two frames show the motion, the third what an action did")
    rollout: Weight = 1.0
    inverse: Weight = 1.0
    variance: Weight = 1.0
    covariance: Weight = 0.04
    rehearsal: Weight = Field(default=1.0, description="keeps the trained language and probe heads in step")
    frozen_encoder: bool = False


class EncoderAdaptationConfig(PhaseConfig):
    """Beginning of the action phase: the encoder learns inverse dynamics and keeps what pretraining taught it."""

    clip_frames: Positive = Field(default=4, description="two frames show the motion, the third what an action did")
    inverse: Weight = Field(default=1.0, description="weight of inverse dynamics; needs clips of 3 frames or more")
    distillation: Weight = Field(default=0.5, description="weight of what the encoder showed before")
    state_supervision: Weight = Field(
        default=0.0,
        description="weight of the recorded state, read off the planning state, now and while dynamics are learnt",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> EncoderAdaptationConfig:
        if self.inverse and self.clip_frames < 3:
            _refuse([f"encoder_adaptation.clip_frames = {self.clip_frames}: inverse dynamics takes 3 frames or more"])
        if not (self.inverse or self.state_supervision):
            _refuse(
                [
                    "encoder_adaptation: inverse and state_supervision are both 0, so it would learn nothing; "
                    "leave the section out"
                ]
            )
        return self


class HeadsConfig(PhaseConfig):
    """Second half of the action phase, on the states that the first half leaves: temporal distance, proposal, coarse
    model, whose step spans a clip."""

    batch_size: Positive = 64
    clip_frames: int = Field(default=6, ge=3, description="two frames show the motion, the third what an action did")
    learning_rate: float = Field(default=2e-3, gt=0)
    save_every: Positive = 500


class PlanConfig(_Section):
    """Search of the planner (cross-entropy method) and its energy."""

    candidates: Positive = 64
    iterations: Positive = 5
    horizon: Positive = 4
    elites: Positive = 8
    momentum: Fraction = 0.1
    min_std: float = Field(
        default=0.05, gt=0, description="floor of the search's spread, as a share of the action range"
    )
    noise_colour: Weight = Field(default=1.0, description="exponent of the coloured noise; 0 is white")
    kept: NotNegative = Field(default=8, description="elites that stay candidates in the next iteration")
    prior_candidates: NotNegative = Field(default=8, description="first candidates that follow the learnt proposal")
    behaviour_prior: Weight = Field(
        default=0.0, description="weight of how far actions lie from the learnt proposal, where the goal has a state"
    )
    first_std: float = Field(default=0.7, gt=0, description="spread of a search without a plan before it, as min_std")
    warm_std: float = Field(default=0.7, gt=0, description="spread of a search that goes on from the plan before")
    settled: Weight = Field(default=0.0, description="a search whose mean moves less than this ends early, as min_std")
    goal_bank_size: NotNegative = Field(
        default=0,
        description="states of the training that are kept, one of which shows a goal in words or labels; 0: none",
    )
    subgoals: NotNegative = Field(
        default=0, description="coarse steps that are looked ahead for a far goal in words or labels; 0: no sub-goals"
    )
    macro_candidates: Positive = Field(default=96, description="candidates of the search for a sub-goal")
    macro_iterations: Positive = Field(default=3, description="its rounds")
    distance: Literal["l1", "smooth_l1", "l2", "cosine"] = "l1"
    latent: Weight = Field(default=1.0, description="weight of the latent distance in the energy of a goal picture")
    temporal_distance: Weight = Field(
        default=1.0, description="weight of the temporal distance in it, per control step"
    )
    decoded_state: Weight = Field(
        default=0.0,
        description="weight of the distance between decoded states (encoder_adaptation.state_supervision), in standard "
        "deviations of the recorded numbers",
    )
    temporal_consistency: Weight = Field(
        default=0.0,
        description="weight of what imagined steps skip (temporal distance), where the goal has a state",
    )
    step_weight_exponent: Weight = Field(
        default=0.0, description="how much more later states count: that after h of H actions (h / H)^late as much"
    )
    unmatched: Weight = Field(default=1.0, description="cost of a slot that is valid on one side only")

    @model_validator(mode="after")
    def _elites(self) -> PlanConfig:
        if self.elites > self.candidates:
            _refuse([f"elites = {self.elites}: must be at most candidates ({self.candidates})"])
        if self.subgoals and self.elites > self.macro_candidates:
            least = f"must be at least elites ({self.elites})"
            _refuse([f"macro_candidates = {self.macro_candidates}: {least}"])
        return self


class DataConfig(_Section):
    """Which episodes are held out (those whose number leaves ``held_out_fold`` when divided by ``folds``), and how the
    pictures of the others are varied in training."""

    folds: int = Field(default=10, gt=1)
    held_out_fold: int = Field(default=9, ge=0)
    shift: int = Field(default=0, ge=0, description="pixels that a clip may be moved by")
    brightness: float = Field(default=0.0, ge=0, lt=1, description="share that a clip may be brighter or darker by")

    @model_validator(mode="after")
    def _fold(self) -> DataConfig:
        if self.held_out_fold >= self.folds:
            _refuse([f"held_out_fold = {self.held_out_fold}: must be below folds ({self.folds})"])
        return self


class Config(_Section):
    """Everything that decides what a training run does, apart from the data."""

    name: str
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig(steps=600)
    language: LanguageConfig = LanguageConfig(steps=300)
    probe: ProbeConfig = ProbeConfig(steps=200)
    encoder_adaptation: EncoderAdaptationConfig | None = Field(
        default=None, description="none: the encoder is not grounded"
    )
    action: ActionConfig = ActionConfig(steps=1500)
    heads: HeadsConfig = HeadsConfig(steps=3000)
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="after")
    def _something_is_visible(self) -> Config:
        slots, ratio = self.model.backbone.slots, self.pretrain.mask_ratio
        if round(ratio * slots) >= slots:
            most = math.floor(1000 * (slots - 0.5) / slots) / 1000  # what rounds to all but one
            hides = f"hides all of model.backbone.pooling.grid's {slots} slots; one must stay visible"
            _refuse([f"pretrain.mask_ratio = {ratio:g}: {hides}, so choose less than {most:g}"])
        return self

    @model_validator(mode="after")
    def _subgoals_need_a_coarse_model(self) -> Config:
        if self.plan.subgoals and not self.model.world_model.macro_latent_dim:
            _refuse(
                [
                    f"plan.subgoals = {self.plan.subgoals}: needs macro dynamics, "
                    "so set model.world_model.macro_latent_dim to 4"
                ]
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_read_that_was_not_told(self) -> Config:
        if self.plan.decoded_state and not self.learns_states:
            _refuse(
                [
                    f"plan.decoded_state = {self.plan.decoded_state}: the state is not supervised; "
                    "set encoder_adaptation.state_supervision to 1"
                ]
            )
        return self

    @property
    def learns_states(self) -> bool:
        """Whether the encoder learns from the recorded state, too."""
        return self.encoder_adaptation is not None and self.encoder_adaptation.state_supervision > 0

    def phase(self, name: Stage) -> PhaseConfig:
        """The section of one phase, or of a part of the action phase."""
        section: PhaseConfig = getattr(self, name)
        return section


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
    values = _with_base(_mapping(text, where), where)
    for field, value in (overrides or {}).items():
        *sections, last = field.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"config {where}: '{section}' in '{field}' is not a section")
        target[last] = value
    return parse_config(values, where)


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


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text stands for. Raises UserError, beginning with ``where``, when it is not YAML."""
    try:
        return yaml.safe_load(text)
    # PyYAML lets through what its constructors of dates, numbers and so on raise: ValueError, KeyError and others.
    except Exception as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def parse_config(values: dict[str, Any], where: str) -> Config:
    """Validate a configuration. Raises UserError naming every wrong field with what is allowed.

    Old field names are accepted; one line of the log names the new ones.
    """
    values, renamed = rename_fields(values, where)
    if renamed:
        log.warning("config %s: %s", where, "; ".join(f"{old} is now called {new}" for old, new in renamed))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = (line for problem in error.errors() for line in _explain(problem))
        raise UserError(f"config {where}: {'; '.join(problems)}") from error


def _explain(problem: Any) -> list[str]:
    """Sentences ``field = value: what is allowed`` about one of pydantic's problems."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # from _refuse: the fields' names begin at the section
        return [f"{field}.{line}".lstrip(".") for line in str(problem["ctx"]["error"]).split("\n")]
    if problem["type"] != "extra_forbidden":
        return [f"{field or '(top)'} = {problem['input']!r}: {problem['msg']}"]
    section: Any = Config
    for part in problem["loc"][:-1]:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return [f"unknown field {field}; allowed there: {', '.join(section.model_fields)}"]
