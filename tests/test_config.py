"""Configurations: what comes along is valid, and what cannot work is refused by field, in one line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.train import overrides
from hnet_vjepa.config import Config, config_names, load_config, parse_config, parse_yaml
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA, Robot
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.specs import CameraSpec
from hnet_vjepa.trainers.pretrain import hidden_slots
from tests import toy

CAMERA = CameraSpec(height=64, width=64, dt=0.1)


def refusal(values: dict[str, Any]) -> str:
    """The one line that a configuration is refused with."""
    with pytest.raises(UserError) as caught:
        parse_config({"name": "x", **values}, "test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", config_names())
def test_the_configs_that_come_along_are_valid(name: str) -> None:
    assert load_config(name).name == name


@pytest.mark.parametrize("name", ["fetch_reach", "fetch_push", "push_t"])
def test_a_larger_preset_is_a_larger_model_of_the_same_robot_that_learns_from_more_clips(name: str) -> None:
    small, large = load_config(name), load_config(f"{name}_large")
    robot = Robot(camera=CAMERA, action=toy.SPEC.normalised_by(np.eye(7, dtype=np.float32)), labels=("left",))
    models = [HNetVJEPA(config, robot) for config in (small, large)]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert sizes[1] > 3 * sizes[0]
    clips = [config.pretrain.steps * config.pretrain.batch_size for config in (small, large)]
    assert clips[1] > 10 * clips[0]
    with torch.no_grad():
        states = [model.states(torch.zeros(1, 2, 64, 64, 3))[0] for model in models]
        now, before, acts = states[1][:, 1], states[1][:, 0], torch.zeros(1, 4, 2)
        ahead = rollout(models[1].world_model.dynamics, now, before, acts[:, 0], acts[:, 1:])
    assert states[0].shape == states[1].shape and ahead.shape == (1, 3, *now.shape[1:])
    assert torch.isfinite(ahead).all()
    assert large.plan == small.plan and large.action.clip_frames == small.action.clip_frames


def test_a_file_says_what_differs_from_its_base(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: push_t_large\nname: mine\naction: {steps: 7}\nplan: {horizon: 9}\n")
    mine, base = load_config(str(file), {"plan.elites": 5}), load_config("push_t_large")
    assert (mine.name, mine.action.steps, mine.plan.horizon, mine.plan.elites) == ("mine", 7, 9, 5)
    assert mine.action.batch_size == base.action.batch_size != load_config("push_t").action.batch_size
    assert (
        mine.encoder_adaptation == base.encoder_adaptation
        and mine.plan.decoded_state == base.plan.decoded_state == load_config("push_t").plan.decoded_state
    )
    for base_name in ("push-t", "[1]", "mine.yaml"):
        file.write_text(f"base: {base_name}\nname: mine\n")
        with pytest.raises(UserError, match=r"base") as caught:
            load_config(str(file))
        assert "\n" not in str(caught.value) and "fetch_reach" in str(caught.value)


def test_defaults() -> None:
    config = Config(name="x")
    assert {config.phase(name).save_every for name in ("pretrain", "language", "probe", "action")} == {50}
    assert config.pretrain.compression == 4.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"colour": 1}, "unknown field colour; allowed there: name, seed"),
        ({"action": {"stepz": 1, "steps": 5}}, "unknown field action.stepz; allowed there: steps, batch_size"),
        (
            {"encoder_adaptation": {"stepz": 1, "steps": 5}},
            "unknown field encoder_adaptation.stepz; allowed there: steps, batch_size",
        ),
        ({"action": {"steps": 0}}, "action.steps = 0: Input should be greater than 0"),
        (
            {"action": {"steps": 5, "clip_frames": 1}},
            "action.clip_frames = 1: Input should be greater",
        ),
        ({"plan": {"candidates": 4, "elites": 8}}, "plan.elites = 8: must be at most candidates (4)"),
        ({"plan": {"distance": "l3"}}, "plan.distance = 'l3': Input should be 'l1'"),
        ({"data": {"folds": 5}}, "data.held_out_fold = 9: must be below folds (5)"),
        ({"precision": "fp8"}, "precision = 'fp8'"),
        ({"name": None}, "name = None: Input should be a valid string"),
        ({"action": 5}, "action = 5: Input should be a valid dictionary"),
        ({1: 2}, "1 = 1: Keys should be strings"),
        ({"seed": -1}, "seed = -1: Input should be greater than or equal to 0"),
        ({"seed": 2**32}, f"seed = {2**32}: Input should be less than or equal to {2**32 - 1}"),
        (
            {"pretrain": {"steps": 5, "learning_rate": float("inf")}},
            "pretrain.learning_rate = inf: Input should be a finite",
        ),
        (
            {"pretrain": {"steps": 5, "vicregl": float("nan")}},
            "pretrain.vicregl = nan: Input should be a finite number",
        ),
    ],
)
def test_a_bad_value_is_refused_by_field(values: dict[Any, object], words: str) -> None:
    assert words in refusal(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text": {"buckets": 1}}, "text.buckets = 1: Input should be greater than or equal to 2"),
        ({"text": {"heads": 3}}, "text.heads = 3: must divide width (64); choose one of: 1, 2, 4, 8, 16, 32, 64"),
        ({"predictor": {"width": 10}}, "predictor.heads = 4: must divide width (10); choose one of: 1, 2, 5, 10"),
        ({"world_model": {"heads": 6}}, "world_model.heads = 6: must divide width (64) and"),
        (
            {"world_model": {"state_dim": 9, "width": 36}},
            "world_model.heads = 4: must divide width (36) and what the probe reads, twice state_dim (18); "
            "choose one of: 1, 2, 3, 6, 9, 18",
        ),
        ({"backbone": {"vit": {"heads": 5}}}, "backbone.vit.heads = 5: must divide the last of encoder.widths (64)"),
        ({"backbone": {"attention": {"heads": 5}}}, "backbone.attention.heads = 5: must divide the last of encoder"),
        (
            {"backbone": {"encoder": {"widths": [8, 18]}}},
            "backbone.attention.heads = 4: must divide the last of encoder.widths (18); choose one of: 1, 2, 3, 6, 9, "
            "18; model.backbone.vit.heads = 4: must divide",
        ),
        ({"backbone": {"encoder": {"widths": []}}}, "backbone.encoder.widths = []: Tuple should have at least 1 item"),
        ({"backbone": {"encoder": {"widths": [8]}}}, "backbone.encoder.depths = [1, 1]: must have one entry per stage"),
        (
            {"backbone": {"encoder": {"stem_stride": 3}}},
            "backbone.encoder.stem_stride = 3: Input should be a mult",
        ),
        (
            {"backbone": {"attention": {"radius": [1, -1, 1]}}},
            "backbone.attention.radius.1 = -1: Input should be",
        ),
    ],
)
def test_a_model_that_can_not_be_built_is_refused_by_field(values: dict[str, object], words: str) -> None:
    assert f"model.{words}" in refusal({"model": values})


def test_all_problems_are_named_at_once() -> None:
    line = refusal({"seed": -1, "plan": {"candidates": 4}, "model": {"text": {"width": 6}}})
    assert "seed = -1" in line and "plan.elites = 8" in line and "model.text.heads = 4" in line


@settings(max_examples=40, deadline=None)
@given(
    heads=st.tuples(*[st.integers(1, 4)] * 5),
    widths=st.tuples(*[st.integers(2, 12)] * 5),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.sampled_from((2, 4)),
)
def test_whatever_is_accepted_can_be_built(
    heads: tuple[int, ...], widths: tuple[int, ...], grid: tuple[int, int], stride: int
) -> None:
    model = {
        "backbone": {
            "encoder": {"stem_width": 4, "stem_stride": stride, "widths": [widths[0]], "depths": [1], "times": [2]},
            "attention": {"heads": heads[0]},
            "pooling": {"grid": grid},
            "vit": {"depth": 1, "heads": heads[1]},
        },
        "predictor": {"width": widths[1], "depth": 1, "heads": heads[2]},
        "world_model": {"state_dim": widths[2], "width": widths[3], "depth": 1, "heads": heads[3], "inverse_width": 4},
        "text": {"buckets": 2, "width": widths[4], "heads": heads[4], "embedding": 4},
    }
    divides = [
        widths[0] % heads[0],
        widths[0] % heads[1],
        widths[1] % heads[2],
        2 * widths[2] % heads[3],
        widths[3] % heads[3],
        widths[4] % heads[4],
    ]
    if any(divides):
        assert "must divide" in refusal({"model": model})
        return
    config = parse_config({"name": "x", "model": model}, "test")
    built = HNetVJEPA(config, Robot(camera=toy.CAMERA, action=toy.SPEC, labels=("a",)))
    assert built.text.encode(["go left"]).shape == (1, 4)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 2), (3, 3), (4, 4)])
def test_at_least_one_slot_stays_visible(grid: tuple[int, int]) -> None:
    slots = grid[0] * grid[1]
    change = {"model": {"backbone": {"pooling": {"grid": grid}}}}
    line = refusal({**change, "pretrain": {"steps": 1, "mask_ratio": 0.99}})
    assert f"pretrain.mask_ratio = 0.99: hides all of model.backbone.pooling.grid's {slots} slots" in line
    most = float(line.split("choose less than ")[1])
    config = parse_config({"name": "x", **change, "pretrain": {"steps": 1, "mask_ratio": most - 1e-3}}, "test")
    hidden = hidden_slots([0, 1, 2], 0, 3, slots, config.pretrain.mask_ratio, 0.0)
    assert not hidden.all(-1).any()
    assert slots == 1 or hidden.sum(-1).eq(slots - 1).all()


def test_config_files_and_overrides(tmp_path: Path) -> None:
    assert load_config("fetch_reach", {"action.steps": 7}).action.steps == 7
    with pytest.raises(UserError, match="unknown config 'nope'"):
        load_config("nope")
    with pytest.raises(UserError, match="no configuration file"):
        load_config(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="is not a section"):
        load_config("fetch_reach", {"name.steps": 7})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "is not YAML: while parsing"),
        (b"name: !!int x", "is not YAML: invalid literal for int()"),
        (b"name: !!bool perhaps", "is not YAML"),
        (b"name: !!python/object:os.system {}", "is not YAML: could not determine a constructor"),
        (b"[" * 5000, "is not YAML"),
        (b"name: caf\xe9", "is not text in UTF-8 (byte 9)"),
        (b"\xff\xfen\x00", "is not text in UTF-8 (byte 0)"),
        (b"name: a\x00b", "is not YAML: unacceptable character"),
        (b"", "must be a mapping of fields to values"),
        (b"- 1", "must be a mapping of fields to values"),
        (b"name: 2026", "name = 2026: Input should be a valid string"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(str(file))
    assert str(caught.value).startswith(f"config {file}") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_set_changes_fields() -> None:
    assert overrides(["action.steps=5", "name=a=b", "model.backbone.pooling.grid=[4, 4]"]) == {
        "action.steps": 5,
        "name": "a=b",
        "model.backbone.pooling.grid": [4, 4],
    }


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("action.steps", "--set action.steps: write it as field=value"),
        ("=5", "--set =5: write it as field=value"),
        ("action.steps=[1", "--set action.steps=[1: the value of action.steps is not YAML: while parsing"),
        ("name=!!int x", "the value of name is not YAML: invalid literal for int()"),
        ("name=a\nb: c", "the value of name is not YAML"),
        ("name=!!float x", "the value of name is not YAML"),
    ],
)
def test_set_refuses_in_one_line(setting: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        overrides([setting])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("action:\n  steps: 5\n  steps: 7\n", "'steps' is in lines 2 and 3"),
        ("action:\n  steps: yes\n", r"action\.steps = 'yes': this is text; needs a number"),
        ("action:\n  steps: true\n", r"action\.steps = True: this is a truth value; needs a number"),
        ('action:\n  steps: "5"\n', r"action\.steps = '5': this is text; needs a number"),
        ("action:\n  steps: 010\n", r"action\.steps = '010': this is text; needs a number"),
        ("a: &a [1]\nb: *a\n", r"aliases \(\*a\) are not read"),
    ],
)
def test_yaml_means_what_it_looks_like(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        load_config(str(tmp_path / "mine.yaml"))


def test_nested_aliases_are_refused_at_once(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (tmp_path / "mine.yaml").write_text("\n".join(levels))
    start = time.monotonic()
    with pytest.raises(UserError, match="aliases"):
        load_config(str(tmp_path / "mine.yaml"))
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("-3", -3), ("1e-3", 0.001), ("1.5e2", 150.0), (".5", 0.5), ("2.", 2.0), ("true", True), ("~", None)]
    + [("[1, 2]", [1, 2]), ("off", "off"), ("0x10", "0x10"), ("1:30", "1:30"), ("2026-01-01", "2026-01-01")],
)
def test_scalars(text: str, value: object) -> None:
    assert parse_yaml(text, "a") == value and type(parse_yaml(text, "a")) is type(value)
