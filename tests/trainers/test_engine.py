import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hnet_vjepa.config import PHASES, Config, Stage
from hnet_vjepa.data.batch import ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, make_phase
from hnet_vjepa.trainers import engine
from hnet_vjepa.trainers.encoder_adaptation import EncoderAdaptation
from hnet_vjepa.trainers.engine import TrainingError, learning_rate, train
from hnet_vjepa.trainers.heads import Heads
from hnet_vjepa.trainers.phase import Phase
from hnet_vjepa.utils.runtime import set_seed
from tests import toy

STAGES: list[Stage] = ["pretrain", "language", "probe", "encoder_adaptation", "action", "heads"]


def stage(name: Stage, store: EpisodeStore) -> Phase:
    """What the loop trains under this name, all phases before it trained."""
    if name == "encoder_adaptation" or name == "heads":
        return EncoderAdaptation() if name == "encoder_adaptation" else Heads()
    return make_phase(name, ("language", "probe"), store)


def run(name: Stage, config: Config, data: Path, folder: Path) -> tuple[HNetVJEPA, list[dict[str, float]]]:
    """Train one phase from scratch; the model and the logged lines."""
    store = EpisodeStore(data)
    set_seed(0)
    model = HNetVJEPA(config, describe_robot(store))
    train(stage(name, store), model, store, folder, progress=False)
    return model, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_weights(a: HNetVJEPA, b: HNetVJEPA) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("name", STAGES)
def test_a_phase_learns_and_changes_only_its_own_modules(name: Stage, toy_store: Path, tmp_path: Path) -> None:
    # Errors of actions differ much from clip to clip; over eight of them thirty steps would not show.
    steadier: dict[str, float] = {"batch_size": 64} if name in ("encoder_adaptation", "heads") else {}
    steadier |= {"distillation": 4.0} if name == "encoder_adaptation" else {}
    config = toy.config(**{name: {"steps": 30, "learning_rate": 0.003} | steadier})
    store = EpisodeStore(toy_store)
    set_seed(0)
    before = HNetVJEPA(config, describe_robot(store))
    model, log = run(name, config, toy_store, tmp_path)
    losses = [sum(v for k, v in line.items() if k not in ("step", "learning_rate", "grad_norm")) for line in log]
    assert sum(losses[-5:]) < sum(losses[:5])
    own = {id(p) for m in stage(name, store).modules(model) for p in m.parameters()}
    if name == "pretrain":
        own |= {id(p) for p in model.target.parameters()}
    for (parameter_name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        if id(new) not in own:
            assert torch.equal(new, old), parameter_name


@pytest.mark.parametrize("name", STAGES)
def test_an_interrupted_phase_goes_on_as_if_nothing_had_happened(
    name: Stage, toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config(**{name: {"steps": 6}})
    clean, clean_log = run(name, config, toy_store, tmp_path / "clean")
    real_step = engine._step

    def dies(*args: object, **kwargs: object) -> object:
        if args[-1] == 5:
            raise KeyboardInterrupt
        return real_step(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(name, config, toy_store, tmp_path / "killed")
    monkeypatch.setattr(engine, "_step", real_step)
    resumed, log = run(name, config, toy_store, tmp_path / "killed")
    assert log == clean_log
    assert_same_weights(resumed, clean)


def test_accumulating_small_batches_equals_one_large_batch(toy_store: Path, tmp_path: Path) -> None:
    """For losses that are means over samples; the probe's coherence compares samples, so it is off here."""
    whole, log = run("probe", toy.config(probe={"coherence": 0.0}), toy_store, tmp_path / "a")
    parts, part_log = run("probe", toy.config(probe={"coherence": 0.0, "accumulate": 4}), toy_store, tmp_path / "b")
    assert [line["bce"] for line in part_log] == pytest.approx([line["bce"] for line in log], rel=1e-4)
    for x, y in zip(whole.probe.parameters(), parts.probe.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_save(toy_store: Path, tmp_path: Path) -> None:
    class Breaks:
        name: Stage = "probe"
        hindsight = False

        def __init__(self) -> None:
            self.inner, self.calls = make_phase("probe", (), store), 0
            self.modules, self.ema, self.ready = self.inner.modules, self.inner.ema, self.inner.ready
            self.evaluate = self.inner.evaluate

        def loss(self, model, batch):  # type: ignore[no-untyped-def]
            self.calls += 1
            terms = self.inner.loss(model, batch)
            return {k: v * (float("nan") if self.calls == 4 else 1.0) for k, v in terms.items()}

    store = EpisodeStore(toy_store)
    model = HNetVJEPA(toy.config(), describe_robot(store))
    with pytest.raises(TrainingError, match=r"the loss is not finite at step 3 of probe .*the batch: rank 0, episode"):
        train(Breaks(), model, store, tmp_path, progress=False)
    assert [save.name for save in (tmp_path / "resume").iterdir()] == ["step-00000002"]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    config = toy.config(action={"steps": 100, "warmup": 0.1, "learning_rate": 2.0}).action
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) in (9, 10)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.01


def test_a_batch_that_cannot_be_shared_out_is_refused(toy_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size = 8 can not be shared out among 1 ranks and 3 accumulation"):
        run("probe", toy.config(probe={"accumulate": 3}), toy_store, tmp_path)


def test_the_sampler_visits_every_clip_once_an_epoch_and_ranks_share_a_batch(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    sampler = ClipSampler(store, describe_robot(store).action, "train", 3, seed=1)
    assert len(sampler) == 18 * 10
    seen = [sampler.clip_of(key) for key in range(len(sampler))]
    assert sorted(seen) == list(range(len(sampler)))
    assert seen != [sampler.clip_of(key) for key in range(len(sampler), 2 * len(sampler))]
    whole = sampler.batch(5, 8)
    parts = [sampler.batch(5, 8, rank, 2) for rank in range(2)]
    torch.testing.assert_close(torch.cat([p.video for p in parts]), whole.video)
    assert parts[0].keys + parts[1].keys == whole.keys


def test_clips_are_aligned_with_their_actions_labels_and_captions(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    robot = describe_robot(store)
    batch = ClipSampler(store, robot.action, "train", 4, seed=0).batch(0, 16)
    moved = (batch.states[:, 1:] - batch.states[:, :-1]) * 100
    actions = batch.actions * torch.tensor(robot.action.std) + torch.tensor(robot.action.mean)
    torch.testing.assert_close(moved, actions, atol=1e-3, rtol=1e-3)
    for row in range(16):
        side = "left" if batch.states[row, -1, 0] * 100 < toy.WIDTH / 2 else "right"
        assert f"go {side}" in batch.text[row]
        assert batch.labels[row].tolist() == [float(side == name) for name in toy.LABELS]


SCRIPT = """
import sys
from pathlib import Path
from tests import toy
from hnet_vjepa.pipeline import run_pipeline
if __name__ == "__main__":
    config = toy.config(probe={"coherence": 0.0}, action={"rehearsal": 0.0}, pretrain={"vicregl": 0.0})
    run_pipeline(config, sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3].split(',')), progress=False)
"""


def launch(ranks: int, data: Path, work_dir: Path, phases: str, folder: Path) -> subprocess.Popen[bytes]:
    script = folder / "train_toy.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        if ranks > 1
        else [sys.executable]
    )
    return subprocess.Popen([*words, str(script), str(data), str(work_dir), phases], env=environment)


def test_a_killed_run_goes_on_where_it_was(toy_store: Path, tmp_path: Path) -> None:
    """SIGKILL while the third phase runs; started again, the run ends with the weights of the clean one."""
    work_dir = tmp_path / "work"
    clean = tmp_path / "clean"
    assert launch(1, toy_store, clean, ",".join(PHASES), tmp_path).wait(timeout=120) == 0
    process = launch(1, toy_store, work_dir, ",".join(PHASES), tmp_path)
    give_up = time.monotonic() + 120
    while not (work_dir / "language" / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = (work_dir / "pretrain" / "manifest.json").stat().st_mtime_ns
    assert launch(1, toy_store, work_dir, ",".join(PHASES), tmp_path).wait(timeout=120) == 0
    assert (work_dir / "pretrain" / "manifest.json").stat().st_mtime_ns == finished
    for name in PHASES:
        once, again = (folder / name / "weights.safetensors" for folder in (clean, work_dir))
        assert once.read_bytes() == again.read_bytes(), name
