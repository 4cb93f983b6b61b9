"""The speed benchmark's arithmetic, and that it times the modules that it names."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.chunking import attention_curve, forward_speed, side_by_side, streaming, training_step
from benchmarks.chunking.attention_curve import Curve
from benchmarks.chunking.large_vit import ChunkViT, Large, TubeletViT, clips, make
from benchmarks.chunking.side_by_side import crossover, exponent, in_own_process, interleaved, peak_mb, resident_mb
from hnet_vjepa.config import AttentionConfig, BackboneConfig, EncoderConfig, PoolingConfig, RoutingConfig, VitConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.hnet import encoder
from hnet_vjepa.models.hnet.encoder import LowLevelEncoder
from hnet_vjepa.models.vjepa.vit import HNetViT

TINY = BackboneConfig(
    encoder=EncoderConfig(stem_width=8, stem_stride=4, widths=(8, 16, 16), depths=(1, 1, 1), times=(1, 2, 2)),
    attention=AttentionConfig(heads=2, cube=(1, 2, 2)),
    routing=RoutingConfig(grid=(3, 3)),
    pooling=PoolingConfig(grid=(2, 2)),
    vit=VitConfig(depth=2, heads=4),
)
SMALL = Large(frames=4, pixels=64, width=32, depth=2, heads=4, window=2, tokenizer=TINY)


def test_calls_are_interleaved_and_the_first_is_not_measured() -> None:
    now = itertools.count()
    made: list[str] = []
    calls = {"a": lambda: made.append("a"), "b": lambda: made.append("b")}
    spent = interleaved(calls, rounds=2, seconds=0, clock=lambda: float(next(now)))
    assert made == ["a", "b"] * 3
    assert spent == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_short_calls_are_made_more_often() -> None:
    spent = interleaved({"a": lambda: None}, rounds=3, seconds=60)
    assert len(spent["a"]) == side_by_side.MOST_ROUNDS


@given(st.floats(0.1, 3), st.floats(1e-6, 1e3), st.lists(st.integers(1, 10**6), min_size=2, max_size=8, unique=True))
def test_the_exponent_of_a_power_law_is_found(power: float, factor: float, sizes: list[int]) -> None:
    found = exponent(sizes, [factor * size**power for size in sizes])
    assert found == pytest.approx(power, rel=1e-6)


@given(st.floats(20, 9000))
def test_the_crossover_of_two_power_laws_is_found(where: float) -> None:
    sizes = [10.0, 100.0, 1000.0, 10000.0]
    square, linear = [size**2 for size in sizes], [where * size for size in sizes]
    assert crossover(sizes, square, linear) == pytest.approx(where, rel=1e-6)
    assert crossover(sizes, linear, square) is None


def test_a_crossover_is_the_last_one_and_may_lie_before_the_first_size() -> None:
    assert crossover([1, 2, 4], [2, 2, 2], [1, 1, 1]) == 1
    assert crossover([1, 2, 4, 8], [2, 1, 1, 4], [1, 2, 4, 1]) == pytest.approx(4 * 2**0.5)


def test_time_is_measured_by_module_and_hooks_are_removed() -> None:
    class Sleeps(nn.Module):
        def forward(self, seconds: float) -> None:
            time.sleep(seconds)

    a, b, other = Sleeps(), Sleeps(), Sleeps()
    with side_by_side.time_of_parts({"both": [a, b], "none": []}) as spent:
        a(0.02)
        b(0.03)
        other(0.1)
    assert 0.05 <= spent["both"] < 0.09 and spent["none"] == 0
    a(0.02)
    assert spent["both"] < 0.09
    assert not a._forward_hooks and not a._forward_pre_hooks


def hold(megabytes: int) -> float:
    """Peak memory of a process that allocates this many MiB for a moment."""
    before = resident_mb()
    block = torch.ones(megabytes * 2**20, dtype=torch.uint8)
    del block
    return peak_mb() - before


@pytest.mark.slow
def test_memory_of_another_process_is_its_own() -> None:
    block = torch.ones(400 * 2**20, dtype=torch.uint8)
    assert peak_mb() > 400
    assert 100 <= in_own_process(hold, 100) < 130
    assert len(block)


def test_without_widening_the_tokens_are_those_of_hnetvit() -> None:
    """The linear layer set to the identity."""
    torch.manual_seed(0)
    plain = HNetViT(TINY).eval()
    wide = ChunkViT(Large(frames=4, pixels=64, width=16, depth=2, heads=4, mlp_ratio=2, window=2, tokenizer=TINY))
    wide.load_state_dict(plain.state_dict(), strict=False)
    for block, like in zip(wide.blocks, plain.blocks, strict=True):
        block.mlp[1] = like.mlp[1]
    with torch.no_grad():
        wide.widen.weight.copy_(torch.eye(16))
        wide.widen.bias.zero_()
        video = clips("chunks", SMALL, 2)
        expected = plain(video, 2, across=True).tokens.flatten(1, 2)
        assert expected.shape == (2, 2 * 4, 16)
        torch.testing.assert_close(wide.eval().tokens(video), expected)


def test_bf16_weights_give_nearly_the_same_tokens() -> None:
    torch.manual_seed(0)
    model = ChunkViT(SMALL).eval()
    with torch.inference_mode():
        exact = model.tokens(clips("chunks", SMALL, 1))
        model.to_bf16()
        rough = model.tokens(clips("chunks", SMALL, 1, bf16=True))
    assert rough.dtype == torch.bfloat16 and exact.shape == (1, 8, 32)
    assert float((rough - exact).norm() / exact.norm()) < 0.1


def test_every_weight_of_a_model_is_initialised() -> None:
    model = make(ChunkViT, SMALL)
    for name, parameter in model.named_parameters():
        assert parameter.device.type == "cpu", name
        assert float(parameter.detach().abs().max()) < 0.2 and bool(parameter.detach().any()), name
    assert not list(model.buffers())


def test_tubelets_are_two_frames_of_sixteen_pixels() -> None:
    pytest.importorskip("transformers")
    model = make(TubeletViT, SMALL, bf16=True)
    with torch.inference_mode():
        assert model.tokens(clips("tubelets", SMALL, 1, bf16=True)).shape == (1, 2 * 4 * 4, 32)


def test_without_transformers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="vjepa2"):
        TubeletViT(SMALL)


def test_costs_and_their_parts_are_per_clip() -> None:
    pytest.importorskip("transformers")
    ours, theirs = forward_speed.costs(SMALL, batch=2, rounds=3, way="fp32")
    assert (ours.side, theirs.side) == ("chunks", "tubelets")
    assert set(ours.parts) == {"encoder", "sparse attention", "routing", "pooling", "transformer"}
    for cost in (ours, theirs):
        assert len(cost.rounds) == 3 and cost.seconds_per_clip in cost.rounds
        assert 0 < sum(cost.parts.values()) < 1.5 * cost.seconds_per_clip


def test_ratios_are_ours_over_theirs() -> None:
    rows = [
        {"side": side, "way": way, "seconds_per_clip": seconds, "peak_mb": mb}
        for way in forward_speed.WAYS
        for side, seconds, mb in (("chunks", 0.5, 300.0), ("tubelets", 6.0, 400.0))
    ]
    found = forward_speed.ratios(rows)
    assert found["clips_ratio_vjepa2_fp32"] == found["clips_ratio_vjepa2_bf16"] == 12
    assert found["memory_ratio_vjepa2_bf16_autocast"] == 0.75


def test_exponents_and_crossovers_of_the_curve(tmp_path: Path) -> None:
    curve = Curve(long=1000, dense_most=4000)
    rows = []
    for tokens in (200, 400, 1000, 4000, 50000):
        row = {"tokens": tokens, "gathered": 1e-5 * tokens, "full": 5e-9 * tokens**2}
        row |= {"dense": 2e-8 * tokens**2} if tokens <= 4000 else {}
        rows.append({**row, **{f"{way}_mb": tokens / 10 for way in row if way != "tokens"}})
    found = attention_curve.figures(rows, curve)
    assert found["nsa_exponent"] == pytest.approx(1)
    assert found["full_attention_exponent"] == pytest.approx(2)
    assert found["crossover_tokens"] == pytest.approx(500)
    assert found["crossover_tokens_full_attention"] == pytest.approx(2000)
    assert found["full_attention_seconds_ratio_longest"] == pytest.approx(25)
    attention_curve.draw(rows).savefig(tmp_path / "curve.png")


def test_the_curve_measures_the_paths_that_it_names() -> None:
    curve = Curve(dim=16, heads=2, side=6, frames=(1, 2, 4), dense_most=80)
    assert [set(row) for row in attention_curve.times(curve, 1)] == [
        {"tokens", "gathered", "dense", "full"},
        {"tokens", "gathered", "dense", "full"},
        {"tokens", "gathered", "full"},
    ]
    with torch.no_grad():
        dense, gathered = (attention_curve.prepare(curve, way, 2)() for way in ("dense", "gathered"))
    torch.testing.assert_close(dense, gathered)


def test_recomputing_changes_no_gradient() -> None:
    model, video = make(ChunkViT, SMALL), clips("chunks", SMALL, 1)
    found = []
    for recompute in (False, True):
        model.recompute = recompute
        model.tokens(video).square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    assert len(found[0]) == len(found[1]) > 0
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_training_step_changes_the_weights() -> None:
    torch.manual_seed(0)
    model = make(ChunkViT, SMALL)
    weights = [model.encoder.stem.weight, model.routing.key.weight, model.widen.weight, model.norm.bias]
    for recompute in (True, False):
        before = [weight.detach().clone() for weight in weights]
        training_step.step_of(model, clips("chunks", SMALL, 1), "fp32")(recompute)
        assert model.recompute is recompute
        assert all(not torch.equal(a, b) for a, b in zip(before, weights, strict=True))
        assert all(weight.grad is None for weight in weights)


@pytest.mark.parametrize("clips_that_fit", [1, 2])
def test_a_batch_encoded_in_pieces_equals_its_clips(monkeypatch: pytest.MonkeyPatch, clips_that_fit: int) -> None:
    torch.manual_seed(0)
    model = LowLevelEncoder(8, 4, (8, 16), (1, 1), (1, 2)).double()
    video = torch.randn(5, 3, 32, 32, 3).double()
    expected = model(video).detach()
    monkeypatch.setattr(encoder, "PIECE", clips_that_fit * 3 * 8 * 8 * 8 * 8 + 1)
    passes: list[int] = []
    model.stem.register_forward_hook(lambda _, given, __: passes.append(len(given[0])))
    with torch.no_grad():
        torch.testing.assert_close(model(video), expected)
    assert passes == {1: [1] * 5, 2: [2, 2, 1]}[clips_that_fit]


def test_the_streaming_benchmark_compares_equals() -> None:
    backbone, rows = streaming.streaming((1, 6))
    assert backbone.encoder.history == 4 and [row["before"] for row in rows] == [1, 6]
    assert max(row["difference"] for row in rows) < 1e-4
    assert all(row["stream"] > 0 and row["clip"] > 0 for row in rows)
