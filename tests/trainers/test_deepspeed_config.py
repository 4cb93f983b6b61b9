"""DeepSpeed's file: what is shipped, what is completed, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.deepspeed_config import AUTO, completed, read_deepspeed_config


def test_the_shipped_file_is_found_by_its_name_and_completed() -> None:
    settings = read_deepspeed_config(Path("configs/deepspeed_zero2.json"))
    assert settings["zero_optimization"]["stage"] == 2
    made = completed(settings, 4, 2, 0.5, Path("x.json"))
    assert made["train_micro_batch_size_per_gpu"] == 4 and made["gradient_accumulation_steps"] == 2
    assert made["gradient_clipping"] == 0.5
    assert AUTO not in json.dumps(made)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optimizer": {"type": "AdamW"}}, "leave 'optimizer' out; every stage has its own AdamW"),
        ({"bf16": {"enabled": True}}, "leave 'bf16' out; set the configuration's field 'precision'"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3; allowed are 0 to 2"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "leave zero_optimization.offload",
        ),
        ([], "must be a JSON object"),
    ],
)
def test_what_training_does_not_do_is_refused(settings: Any, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=says) as caught:
        read_deepspeed_config(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_switched_off_block_is_no_contradiction(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"bf16": {"enabled": False}}))
    read_deepspeed_config(tmp_path / "mine.json")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train_micro_batch_size_per_gpu": 3}, "train_micro_batch_size_per_gpu = 3, but batch_size / .* is 4"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps = 1, but accumulate is 2"),
        ({"gradient_clipping": 1.0}, "gradient_clipping = 1.0, but clip_norm is 0.5"),
        ({"train_batch_size": 64}, "leave train_batch_size out"),
    ],
)
def test_a_contradiction_of_the_configuration_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        completed(settings, 4, 2, 0.5, Path("mine.json"))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"none.json: there is no such .* shipped with this package: deepspeed_zero2.json"
    ):
        read_deepspeed_config(Path("none.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken.json is no JSON"):
        read_deepspeed_config(tmp_path / "broken.json")
