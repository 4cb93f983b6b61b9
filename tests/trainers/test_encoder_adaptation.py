"""Encoder adaptation: what distillation preserves in the chunks, and that inverse dynamics reads actions from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.checkpoint import load_checkpoint, read_manifest
from hnet_vjepa.config import PhaseName
from hnet_vjepa.data.batch import Batch, ClipSampler
from hnet_vjepa.data.store import EpisodeStore, StoreInfo, create_store, write_shard
from hnet_vjepa.errors import UserError
from hnet_vjepa.export import export
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.state_decoder import StateDecoder
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.pipeline import describe_robot, run_pipeline
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.trainers.encoder_adaptation import EncoderAdaptation, standardised
from hnet_vjepa.trainers.engine import train
from tests import toy


def started(store: EpisodeStore, **settings: float) -> tuple[HNetVJEPA, Batch]:
    config = toy.config(encoder_adaptation=settings, model={"predictor": {"width": 64, "depth": 2, "heads": 4}})
    torch.manual_seed(0)
    model = HNetVJEPA(config, describe_robot(store, config.learns_states))
    return model, ClipSampler(store, model.robot.action, "train", 3, seed=0).batch(0, 8)


def test_targets_are_standardised_slot_by_slot_and_constants_stay_finite() -> None:
    tokens = torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(4.0)[:, None]
    tokens[:, 0, 0] = 7.0
    found = standardised(tokens).numpy()
    rows = tokens.numpy().reshape(50, -1)
    expected = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-3)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


def test_the_error_of_actions_is_that_of_the_inverse_dynamics(toy_store: Path) -> None:
    model, batch = started(EpisodeStore(toy_store))
    losses = EncoderAdaptation().loss(model, batch)
    states = model.states(batch.video)[0]
    total = [
        model.world_model.inverse(states[:, t - 1], states[:, t], states[:, t + 1]) - batch.actions[:, t]
        for t in range(1, states.shape[1] - 1)
    ]
    torch.testing.assert_close(losses["inverse"], torch.stack(total).square().mean())


def test_what_is_reconstructed_of_a_frame_comes_of_that_frame_alone(toy_store: Path) -> None:
    """Otherwise a frame could forget what its neighbours show."""
    model, batch = started(EpisodeStore(toy_store))
    reconstructed = EncoderAdaptation._reconstruct(model, model.backbone(batch.video)).unflatten(
        0, batch.video.shape[:2]
    )
    changed = batch.video.clone()
    changed[:, -1] = 0
    after = EncoderAdaptation._reconstruct(model, model.backbone(changed)).unflatten(0, batch.video.shape[:2])
    torch.testing.assert_close(after[:, 0], reconstructed[:, 0])
    assert not torch.allclose(after[:, -1], reconstructed[:, -1], atol=1e-3)


def test_the_target_stands_still(toy_store: Path, tmp_path: Path) -> None:
    store = EpisodeStore(toy_store)
    model, _ = started(store, steps=6, learning_rate=0.003)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    train(EncoderAdaptation(), model, store, tmp_path, progress=False)
    for name, tensor in model.target.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize("distillation", [0.0, 4.0])
def test_distillation_keeps_what_chunks_showed_before(distillation: float, toy_store: Path, tmp_path: Path) -> None:
    """The predictor finds the old chunks in the new ones, of clips it was not trained on, better than their mean."""
    store = EpisodeStore(toy_store)
    model, _ = started(store, distillation=distillation, steps=200, learning_rate=0.003, clip_frames=3)
    train(EncoderAdaptation(), model, store, tmp_path, progress=False)
    sampler = ClipSampler(store, model.robot.action, "held_out", 3, seed=0)
    video = sampler.clips(range(len(sampler))).video
    with torch.no_grad():
        wanted = standardised(model.target(video).tokens.flatten(0, 1))
        error = float((EncoderAdaptation._reconstruct(model, model.backbone(video)) - wanted).square().mean())
    assert error < 0.9 if distillation else error > 1


def test_the_action_phase_begins_with_it_and_says_what_it_came_to(toy_store: Path, tmp_path: Path) -> None:
    phases: tuple[PhaseName, ...] = ("pretrain", "action")
    checkpoint = run_pipeline(toy.config(encoder_adaptation={}), toy_store, tmp_path, phases, progress=False)
    assert (tmp_path / "encoder_adaptation.run" / "log.jsonl").is_file()
    assert not (tmp_path / "encoder_adaptation.run" / "resume").exists()
    assert '"adapted_linear_probe_r2"' in (checkpoint / "manifest.json").read_text()


def test_the_error_of_the_recorded_state_is_in_shares_of_its_deviation_and_constants_are_not_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    recorded = torch.randn(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 0.01, 0]) + 7
    state_decoder = StateDecoder(4, 2, 3).double()
    state_decoder.fit(recorded)
    states = torch.randn(200, 2, 4, generator=generator, dtype=torch.float64)
    found = (
        states.reshape(200, 8).numpy() @ state_decoder.linear.weight.detach().numpy().T
        + state_decoder.linear.bias.detach().numpy()
    )
    truth = recorded.numpy()
    wanted = (truth[:, :2] - truth[:, :2].mean(0)) / truth[:, :2].std(0)
    expected = ((found[:, :2] - wanted) ** 2).sum(1).mean() / 3
    assert state_decoder.error(states, recorded).item() == pytest.approx(expected, rel=1e-6)


def test_what_it_is_told_the_planning_state_shows_and_without_weights_nothing_else_is_learnt(
    toy_store: Path, tmp_path: Path
) -> None:
    """The square's place, in episodes that the training did not see, read off by the map that it was taught with."""
    store = EpisodeStore(toy_store)
    model, _ = started(
        store, inverse=0, distillation=0, state_supervision=1, clip_frames=1, steps=250, learning_rate=0.003
    )
    others = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(("predictor", "world_model.inverse"))
    }
    train(EncoderAdaptation(), model, store, tmp_path, progress=False)
    batch = ClipSampler(store, model.robot.action, "held_out", 1, seed=0).clips(range(20))
    assert model.state_decoder is not None
    with torch.no_grad():
        assert (
            float(model.state_decoder.error(model.states(batch.video)[0], batch.states)) < 0.1
        )  # always the mean: about 1
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in others.items())


def test_who_is_told_says_so_and_an_export_leaves_behind_what_read_it(toy_store: Path, tmp_path: Path) -> None:
    config = toy.config(
        encoder_adaptation={"state_supervision": 1.0, "steps": 2}, pretrain={"steps": 1}, action={"steps": 1}
    )
    last = run_pipeline(config, toy_store, tmp_path / "run", ("pretrain", "action"), progress=False)
    small = export(last, tmp_path / "small")
    assert "state_decoder" in read_manifest(small).left_out
    assert '"x [m]"' in (small / "robot.json").read_text()


def test_what_is_told_in_training_stays_true_of_seen_and_of_imagined_states(toy_store: Path, tmp_path: Path) -> None:
    """After the action phase, in other episodes: by the state decoder of the adaptation, one step and three ahead."""
    store = EpisodeStore(toy_store)
    settings = {
        "inverse": 0,
        "distillation": 0,
        "state_supervision": 1,
        "clip_frames": 1,
        "steps": 180,
        "learning_rate": 0.003,
    }
    action = {"steps": 140, "clip_frames": 5, "learning_rate": 0.003, "frozen_encoder": True}
    config = toy.config(encoder_adaptation=settings, pretrain={"steps": 1}, action=action, heads={"steps": 1})
    model = load_checkpoint(run_pipeline(config, toy_store, tmp_path, ("pretrain", "action"), progress=False)).model
    batch = ClipSampler(store, model.robot.action, "held_out", 5, seed=0).clips(range(16))
    assert model.state_decoder is not None
    with torch.no_grad():
        states = model.states(batch.video)[0]
        ahead = rollout(
            model.world_model.dynamics, states[:, 1], states[:, 0], batch.actions[:, 0], batch.actions[:, 1:]
        )
        seen, predicted = (
            model.state_decoder.error(states, batch.states),
            model.state_decoder.error(ahead, batch.states[:, 2:]),
        )
        resting = model.state_decoder.error(states[:, 1:2].expand_as(ahead), batch.states[:, 2:])
    assert float(seen) < 0.1  # always the mean: about 1
    assert float(predicted) < 0.05 * float(resting)


def test_the_energy_of_what_was_told_is_the_distance_that_the_map_reads_and_is_planned_with(
    toy_store: Path, tmp_path: Path
) -> None:
    plan = {
        "latent": 0.5,
        "temporal_distance": 0.0,
        "decoded_state": 2.0,
        "candidates": 16,
        "iterations": 3,
        "elites": 4,
    }
    config = toy.config(
        encoder_adaptation={"state_supervision": 1.0}, pretrain={"steps": 1}, action={"steps": 2}, plan=plan
    )
    last = run_pipeline(config, toy_store, tmp_path / "run", ("pretrain", "action"), progress=False)
    small = export(last, tmp_path / "small")  # without the map it could not plan
    assert "state_decoder" not in read_manifest(small).left_out
    query = PlanQuery(np.stack([toy.picture(8, 10), toy.picture(9, 10)]), ImageGoal(toy.picture(24, 24)))
    [whole], [exported] = load_planner(last).plan([query]), load_planner(small).plan([query])
    assert exported.energy_now == pytest.approx(whole.energy_now, rel=0.01)
    model = load_checkpoint(last).model
    assert model.state_decoder is not None
    with torch.no_grad():
        goal = model.states(torch.from_numpy(toy.picture(24, 24)[None, None]).float() / 127.5 - 1)[0][0, 0].numpy()
    weight, apart = model.state_decoder.linear.weight.detach().numpy(), whole.state - goal
    expected = 0.5 * np.abs(apart).mean() + 2 * np.linalg.norm(weight @ apart.ravel())
    assert whole.energy_now == pytest.approx(float(expected), rel=1e-4)


def test_nothing_is_measured_with_that_was_not_told() -> None:
    with pytest.raises(
        UserError,
        match=r"plan.decoded_state = 1.0: the state is not supervised; set encoder_adaptation.state_supervision to 1",
    ):
        toy.config(plan={"decoded_state": 1.0})


def test_a_recording_without_a_state_can_not_tell_it(tmp_path: Path) -> None:
    episodes = [replace(toy.episode(i), states=None) for i in range(10)]
    info = StoreInfo(source="toy", camera=toy.CAMERA, action=toy.SPEC, shards=1, labels=toy.LABELS, settings={})
    create_store(tmp_path / "store", info)
    write_shard(tmp_path / "store", 0, info, episodes)
    config = toy.config(encoder_adaptation={"state_supervision": 1.0})
    with pytest.raises(
        UserError, match=r"records no state, which encoder_adaptation.state_supervision would learn from; set it to 0"
    ):
        run_pipeline(config, tmp_path / "store", tmp_path / "run", ("pretrain", "action"), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "says"),
    [({"clip_frames": 2}, "takes 3 frames or more"), ({"inverse": 0, "distillation": 1}, "it would learn nothing")],
)
def test_sections_that_can_not_be_learnt_from_are_refused(section: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        toy.config(encoder_adaptation=section)
