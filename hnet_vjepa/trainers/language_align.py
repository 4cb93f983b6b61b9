"""Phase 2, language: sentences and planning states that belong together come close."""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch, clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.contrastive import nt_xent
from hnet_vjepa.losses.energy import text_energy
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.utils.collectives import gather_rows, gather_values


def language_loss(
    model: HNetVJEPA, read: Tensor, captions: list[tuple[str, ...]], keys: list[int]
) -> dict[str, Tensor]:
    """NT-Xent and energy between clips and one caption each.

    ``read``: the clips' last states with their change, B x S x 2d (HNetVJEPA.read).

    A caption that is true of several clips counts as right for all of them. Clips without one are left out.
    """
    config = model.config.language
    captioned = [i for i, true in enumerate(captions) if true]
    captions, keys = [captions[i] for i in captioned], [keys[i] for i in captioned]
    pick = [np.random.default_rng([model.config.seed, key, 2]) for key in keys]
    chosen = [true[int(random.integers(len(true)))] for true, random in zip(captions, pick, strict=True)]
    # Contrast is with the clips of all ranks. A rank without captions takes part with no row.
    video = gather_rows(model.projector(read)[captioned])
    text = gather_rows(model.text.encode(chosen or ["nothing"])[: len(chosen)])
    positives = _true_of(captions, chosen, read.device)
    if not len(positives):  # no rank has a caption; zero, in the graph of all parameters that are trained
        return {"nt_xent": video.sum() + text.sum()}
    losses = {"nt_xent": nt_xent(video, text, config.temperature, positives)}
    if config.energy:
        losses["text_energy"] = config.energy * text_energy(video, text).mean()
    return losses


def _true_of(captions: list[tuple[str, ...]], chosen: list[str], device: torch.device) -> Tensor:
    """Which of all ranks' chosen captions (columns) are true of which of all ranks' clips (rows): N x N bool."""
    parts = gather_values([captions, chosen], device)
    of_clips = [of_clip for part in parts for of_clip in part[0]]
    texts = [text for part in parts for text in part[1]]
    true = torch.tensor([[text in c for text in texts] for c in of_clips], dtype=torch.bool)
    return true.reshape(len(of_clips), len(texts)).logical_or(torch.eye(len(texts), dtype=torch.bool)).to(device)


class Language:
    """NT-Xent + energy on frozen chunks; trains the linear layer of the state, the projection and the text tower."""

    name: Stage = "language"
    hindsight = False

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """Linear layer of the planning state, projection, text tower."""
        return [model.world_model.readout, model.projector, model.text]

    def ema(self, model: HNetVJEPA) -> float | None:
        """No target."""
        return None

    def ready(self, store: EpisodeStore) -> str | None:
        """Needs captions."""
        return None if any(any(e.captions) for e in store.episodes) else "it has no captions"

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """See language_loss."""
        return language_loss(model, model.read(model.clip_states(batch.frames, batch.features)), batch.text, batch.keys)

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Retrieval of the right caption among held-out ones, minimal pairs apart."""
        return caption_retrieval(model, store)


@torch.no_grad()
def caption_retrieval(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """How often the nearest of all held-out captions is true of the clip, beside chance and the best constant answer.

    A caption is true of a clip when it was recorded with it, or when all labels hold that hold wherever that caption
    was recorded: "go to the left" is no wrong answer only because this clip's caption says "move to the left".

    ``left_right_accuracy``: of a true caption with 'left' or 'right' and its mirror image, how often the true one is
    nearer (chance 0.5).
    """
    frames = model.config.language.clip_frames
    videos, labels = [], []
    captions: list[tuple[str, ...]] = []
    for batch in clip_batches(store, model.robot.action, "held_out", frames, model.device):
        videos.append(model.projector(model.read(model.states(batch.video)[0])))
        captions += batch.text
        labels.append(batch.labels.cpu().numpy() > 0)
    video = torch.cat(videos)
    texts = sorted({text for true in captions for text in true})
    if not texts:
        return {}
    similarity = video @ model.text.encode(texts).T  # N x texts
    true_of = np.array([[text in true for text in texts] for true in captions])
    if store.info.labels:
        implied = _implied_labels(store, texts)  # texts x L
        true_of |= ~(implied[None] & ~np.concatenate(labels)[:, None]).any(-1)
    truth = torch.from_numpy(true_of).to(video.device)
    found = truth.gather(1, similarity.argmax(1, keepdim=True)).float().mean()
    metrics = {
        "retrieval_accuracy": float(found),
        "retrieval_chance": float(truth.float().mean()),
        "retrieval_constant": float(truth.float().mean(0).max()),
        "captions": float(len(texts)),
        "clips": float(len(captions)),
    }
    numbers = {text: i for i, text in enumerate(texts)}
    pairs = [
        (row, text, mirrored(text)) for row, true in enumerate(captions) for text in true if mirrored(text) != text
    ]
    if pairs:
        others = sorted({other for _, _, other in pairs})
        mirror = video @ model.text.encode(others).T
        place = {text: i for i, text in enumerate(others)}
        right = [bool(similarity[row, numbers[text]] > mirror[row, place[other]]) for row, text, other in pairs]
        metrics |= {"left_right_accuracy": float(np.mean(right)), "left_right_pairs": float(len(right))}
    return metrics


def _implied_labels(store: EpisodeStore, texts: list[str]) -> NDArray[np.bool_]:
    """Which labels hold at every frame that a caption was recorded with: texts x L. A rare caption implies much."""
    place = {text: i for i, text in enumerate(texts)}
    implied = np.ones((len(texts), len(store.info.labels)), bool)
    for episode in store.episodes:
        assert episode.labels is not None
        for recorded, holds in zip(episode.captions, episode.labels > 0, strict=True):
            for text in recorded:
                if text in place:
                    implied[place[text]] &= holds
    return implied


def mirrored(text: str) -> str:
    """The sentence with left and right exchanged."""
    return re.sub(r"\b(left|right)\b", lambda m: "right" if m[0] == "left" else "left", text)
