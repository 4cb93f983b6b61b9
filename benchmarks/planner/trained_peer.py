"""The peer's network, trained on the same episodes for the same time, and evaluated on the same goals.

LeWM's recipe as published: clips of 4 images that lie 5 steps apart, the squared error of each next embedding plus
0.09 SIGReg, no stop-gradient, AdamW with 5e-5 and decay 1e-3, gradients clipped at 1, bf16. The original trains for
hours on a GPU with 128 clips in a step. Here it trains for as many seconds on this machine as the shipped model did,
with fewer clips in a step, so that it makes a reasonable number of steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.part import Part
from benchmarks.planner.cells import difference
from benchmarks.planner.comparison import compare_methods
from benchmarks.planner.instrumented import threads
from benchmarks.planner.peer import BLOCK, HORIZON, IMAGE, Peer, PlainSearch
from benchmarks.table import Result, Table, rate
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.data.batch import ClipSampler, normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.sigreg import sigreg_loss
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.specs import ActionSpec
from hnet_vjepa.utils.runtime import choose_precision
from sims.core.collect import collect
from sims.core.task import Task
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import Pair, budget, make_pairs
from sims.evaluation.policies import (
    Actor,
    Decision,
    Observation,
    Policy,
    RandomPolicy,
    ScriptedPolicy,
    check_card,
    local_planner,
)
from sims.evaluation.results import summary

CLIP, CLIPS = 4, 16  # images of a clip; clips in a step
LEARNING_RATE, DECAY, SIGREG = 5e-5, 1e-3, 0.09
DISTANCE, PAIRS = 25, 20  # as in the peers' protocol
NAME = "peer, equal training time"


def images_of(frames: Tensor) -> Tensor:
    """Normalised frames B x H x W x 3 as input of the peer: B x 3 x 224 x 224."""
    return F.interpolate(frames.permute(0, 3, 1, 2), IMAGE[1:], mode="bilinear", align_corners=False)


def peer_loss(peer: Peer, video: Tensor, actions: Tensor, step: int) -> Tensor:
    """LeWM's loss on clips B x 4 x H x W x 3 with blocks of actions between their images, B x 3 x (5 A)."""
    batch, length = video.shape[:2]
    states = peer.encode(images_of(video.flatten(0, 1))).unflatten(0, (batch, length))  # B x 4 x D
    embedded = peer.embed(peer.smooth(actions.transpose(1, 2)).transpose(1, 2))  # B x 3 x D
    error = (peer.predict(states[:, :-1], embedded) - states[:, 1:]).square().mean()
    return error + SIGREG * sigreg_loss(states.flatten(0, 1), slices=1024, seed=step)


def clips_of(sampler: ClipSampler, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images ``BLOCK`` steps apart and the blocks of actions between them, endlessly."""
    step = 0
    while True:
        batch = sampler.batch(step, size)
        yield batch.video[:, ::BLOCK], batch.actions.unflatten(1, (CLIP - 1, BLOCK)).flatten(2)
        step += 1


def train_peer(
    store: EpisodeStore, spec: ActionSpec, seconds: float, clips: int = CLIPS, make: Callable[[int], Peer] = Peer
) -> tuple[Peer, list[float]]:
    """A peer after as many steps as fit into ``seconds``, and the loss of every step."""
    sampler = ClipSampler(store, spec, "train", (CLIP - 1) * BLOCK + 1, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        peer = make(BLOCK * len(spec.active)).train()
    optimiser = torch.optim.AdamW(peer.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=choose_precision("auto") == "bf16")
    losses: list[float] = []
    begun = time.monotonic()
    for video, actions in clips_of(sampler, clips):
        with autocast:
            loss = peer_loss(peer, video, actions, len(losses))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        if time.monotonic() - begun > seconds:
            break
    return peer.eval(), losses


class PeerPolicy:
    """Plans once for ``HORIZON`` blocks of actions and executes them open loop, as the peers do."""

    def __init__(self, peer: Peer, spec: ActionSpec, search: PlainSearch = PlainSearch(), name: str = NAME) -> None:
        self.name = name
        self._peer, self._spec, self._search = peer, spec, search

    def begin(self, pair: Pair) -> Actor:
        """Start an episode towards an image goal."""
        assert isinstance(pair.goal, ImageGoal)
        spec, left, plans = self._spec, list[Decision](), 0
        active, mean, std = list(spec.active), np.array(spec.mean), np.array(spec.std)
        goal = images_of(normalise_frames(pair.goal.frame[None]))[0]

        def act(seen: Observation) -> Decision:
            nonlocal plans
            if not left:
                begun = time.perf_counter()
                now = images_of(normalise_frames(seen.frames[-1:]))[0]
                plan = self._peer.plan(now, goal, HORIZON, self._search, 1000 * pair.index + plans)
                plan_ms, plans = 1e3 * (time.perf_counter() - begun), plans + 1
                normal = plan.unflatten(-1, (BLOCK, len(active))).flatten(0, 1).numpy()  # (H * BLOCK) x A
                actions = np.zeros((len(normal), spec.dim), np.float32)
                actions[:, active] = normal * std + mean
                left.extend(Decision(action) for action in np.clip(actions, *spec.inner_bounds()))
                left[0] = Decision(left[0].action, plan_ms=plan_ms)
            return left.pop(0)

        return act


def trained_peer(task: Task, checkpoint: Path, episodes: int, pairs: int = PAIRS, clips: int = CLIPS) -> Part:
    """Train the peer for as long as the checkpoint, and play the same dev pairs with both, floor and ceiling."""
    manifest = read_manifest(checkpoint)
    seconds = sum(phase.seconds for phase in manifest.phases)
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    spec = planner.card.action
    with TemporaryDirectory() as folder:
        store = EpisodeStore(collect(task.name, episodes, 0, Path(folder)))
        peer, losses = train_peer(store, spec, seconds, clips)
    with contextlib.closing(task.open()) as simulation, threads(1):
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image", DISTANCE)
        policies: list[Policy] = [
            local_planner(planner),
            PeerPolicy(peer, spec),
            RandomPolicy(task),
            ScriptedPolicy(task),
        ]
        steps = budget(task, DISTANCE)
        result = evaluate(
            task, simulation, policies, drawn, "dev", 0, "image", steps=steps, distance=DISTANCE, progress=False
        )
    rates = result.method(NAME).rates(0)
    return Part(
        {
            "task": task.name,
            "weights": planner.card.fingerprint,
            "episodes": episodes,
            "clips": clips,
            "distance": DISTANCE,
            "split": "dev",
            "pairs": pairs,
            "search": asdict(PlainSearch()),
            "parameters": sum(p.numel() for p in peer.parameters()),
        },
        {
            "peer_trained_s": seconds,
            "peer_trained_steps": float(len(losses)),
            "peer_trained_success_end": rates["end"].value,
            "peer_trained_success_ever": rates["ever"].value,
        },
        {
            "losses": losses,
            "summary": {m.name: summary(result, m) for m in result.methods},
            "comparisons": {
                m.name: compare_methods(result, "planner", m.name) for m in result.methods if m.name != "planner"
            },
        },
    )


def table(result: Result) -> Table:
    """The peer after equal training time, beside the planner, floor and ceiling."""
    part = result.parts["trained-peer"]
    rows = []
    for method, found in part["summary"].items():
        compared = part["comparisons"].get(method)
        against = difference(next(iter(compared["success_end"].values()))) if compared else "–"
        first = next(iter(found["success"].values()))
        rows.append([method, rate(first["ever"]), rate(first["end"]), against])
    settings, losses = part["settings"], part["losses"]
    note = (
        f"`{settings['task']}`, {settings['pairs']} dev pairs, goals {settings['distance']} steps away, twice as many "
        f"steps to reach them, within {next(iter(part['summary']['planner']['success']))}. The peer "
        f"({settings['parameters'] / 1e6:.1f} million parameters) made {len(losses)} steps of {settings['clips']} "
        f"clips on the same {settings['episodes']} episodes; its loss went from {losses[0]:.3g} to {losses[-1]:.3g}."
    )
    return Table(["", "ever", "at the end", "against the planner"], rows, note, ("trained-peer",))
