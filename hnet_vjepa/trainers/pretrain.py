"""Phase 1, self-supervised: predict the chunks whose pixels the student has not seen (V-JEPA, on chunks)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.auxiliaries import assignment_entropy, boundary_loss, ratio_loss
from hnet_vjepa.losses.energy import energy
from hnet_vjepa.losses.vicregl import vicregl_loss
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.vjepa.vit import Chunks, HNetViT
from hnet_vjepa.trainers.linear_probe import effective_rank, probe_error, sampled_states
from hnet_vjepa.utils.collectives import gather_mean, gather_rows


def hidden_slots(keys: list[int], seed: int, windows: int, slots: int, ratio: float, future: float) -> Tensor:
    """Which slots of which windows are hidden: B x W x M' bool, a pure function of (seed, key).

    Mostly the same slots in every window (a tube, so that the answer does not stand in the next frame); with
    probability ``future`` the whole last window instead (what will it look like?).
    """
    hidden = np.zeros((len(keys), windows, slots), bool)
    count = min(slots - 1, max(1, round(ratio * slots)))
    for row, key in enumerate(keys):
        random = np.random.default_rng([seed, key, 1])
        if windows > 1 and random.random() < future:
            hidden[row, -1] = True
        else:
            hidden[row, :, random.choice(slots, count, replace=False)] = True
    return torch.from_numpy(hidden)


def blank(video: Tensor, chunks: Chunks, hidden: Tensor, stride: int) -> Tensor:
    """Set the pixels of hidden slots to the mean colour, before any layer could mix them with their neighbours.

    Video B x T x H x W x 3, hidden B x W x M' -> video.
    """
    frames, rows, columns = chunks.grid
    cells = hidden.gather(2, chunks.cell_slots())  # B x W x N
    grid = cells.unflatten(2, (frames, rows, columns)).flatten(1, 2)  # B x T x H' x W'
    pixels = grid.repeat_interleave(stride, 2).repeat_interleave(stride, 3)  # B x T x H x W
    return video.masked_fill(pixels[:, :, : video.shape[2], : video.shape[3], None], 0.0)


def slot_places(backbone: HNetViT, chunks: Chunks) -> tuple[Tensor, Tensor]:
    """Where the slots of a clip lie before anything was seen: B x (W*M') x 3 (t, y, x), and their mean size.

    The predictor is asked about these places. The true centroids of hidden chunks would tell it what lies there.
    """
    batch, windows, slots = chunks.mask.shape
    frames, rows, columns = chunks.grid
    middle = torch.arange(windows, device=chunks.mask.device) * frames + (frames - 1) / 2  # W
    anchors = backbone.pooling.anchors.detach().expand(windows, -1, -1)  # W x M' x 2
    places = torch.cat([middle[:, None, None].expand(-1, slots, 1), anchors], -1)  # W x M' x 3
    size = frames * rows * columns / slots
    return places.flatten(0, 1).expand(batch, -1, -1), torch.full((batch, windows * slots), size, device=places.device)


def content(tokens: Tensor) -> Tensor:
    """Every slot around its own mean over all samples and ranks: B x N x D.

    Slots differ by their places whatever is in the picture, and that difference alone would satisfy the variance term.
    """
    return tokens - gather_rows(tokens.flatten(1)).mean(0).unflatten(0, tokens.shape[1:])


class Pretrain:
    """Masked prediction of chunks against an EMA target, with VICRegL and the routing regularisers."""

    name: Stage = "pretrain"
    hindsight = False

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """Backbone, predictor, and the dechunker when reconstruction is asked for."""
        parts: list[nn.Module] = [model.backbone, model.predictor]
        return [*parts, model.dechunker] if model.config.pretrain.reconstruction else parts

    def ema(self, model: HNetVJEPA) -> float | None:
        """Constant momentum, as in V-JEPA 2."""
        return model.config.pretrain.ema

    def ready(self, store: EpisodeStore) -> str | None:
        """Any video will do."""
        return None

    def representation(self, model: HNetVJEPA, video: Tensor) -> tuple[Tensor, Tensor]:
        """The student's chunks of whole pictures (see collapse.CanCollapse)."""
        tokens, _, _, mask = model.backbone(video).flat()
        return tokens, mask

    def remedy(self, model: HNetVJEPA) -> str:
        """What keeps chunks apart."""
        config = model.config.pretrain
        shown = {name: f"{getattr(config, name):g}" for name in ("vicregl", "ema", "learning_rate")}
        return (
            f"raise pretrain.vicregl ({shown['vicregl']}) or pretrain.ema ({shown['ema']}), "
            f"or lower pretrain.learning_rate ({shown['learning_rate']}), and train in another --work-dir"
        )

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """Energy between predicted and target chunks at hidden places, plus regularisers."""
        config = model.config.pretrain
        with torch.no_grad():
            target = model.target(batch.video, across=True)
        windows, slots = target.mask.shape[1:]
        hidden = hidden_slots(
            batch.keys, model.config.seed, windows, slots, config.mask_ratio, config.future_probability
        ).to(batch.video.device)
        seen = blank(batch.video, target, hidden, model.backbone.encoder.stride)
        student = model.backbone(seen, across=True)

        tokens, centroids, sizes, mask = student.flat()
        context_mask = mask | hidden.flatten(1)
        wanted, wanted_centroids, _, wanted_mask = target.flat()
        predicted = model.predictor(tokens, centroids, sizes, context_mask, *slot_places(model.backbone, target))
        goal = F.layer_norm(wanted.float(), wanted.shape[-1:])
        skip = wanted_mask | ~hidden.flatten(1)
        losses = {"energy": energy(predicted.float(), goal, "smooth_l1", skip, skip).mean()}
        if config.vicregl:
            views = (content(tokens.float()), content(wanted.float()))
            terms = vicregl_loss(*views, context_mask, wanted_mask, centroids, wanted_centroids)
            losses["vicregl"] = config.vicregl * terms.total
        assignment = student.assignment.flatten(0, 1)  # (B*W) x N x K
        if config.ratio:
            live = (~student.chunk_mask).float().mean() * assignment.shape[-1] / assignment.shape[1]
            soft = assignment.amax(1).sum(-1).mean() / assignment.shape[1]
            live, soft = gather_mean(live), gather_mean(soft)  # their product is not the mean of the ranks' products
            losses["ratio"] = config.ratio * ratio_loss(live, soft, config.compression)
        if config.entropy:
            losses["entropy"] = config.entropy * assignment_entropy(assignment, None)
        if config.boundary:
            losses["boundary"] = config.boundary * boundary_loss(assignment, student.cells.flatten(0, 1), student.grid)
        if config.reconstruction:
            losses["reconstruction"] = config.reconstruction * self._reconstruction(model, student, target)
        return losses

    def _reconstruction(self, model: HNetVJEPA, student: Chunks, target: Chunks) -> Tensor:
        """How well the chunks, put back on the grid, give the target's cell features."""
        rebuilt = model.dechunker(
            student.chunks.flatten(0, 1),
            student.assignment.flatten(0, 1),
            student.chunk_centroids.flatten(0, 1),
            student.chunk_mask.flatten(0, 1),
            student.cells.flatten(0, 1),
        )
        goal = target.cells.flatten(0, 1).float()
        return F.smooth_l1_loss(rebuilt.float(), F.layer_norm(goal, goal.shape[-1:]))

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Linear probe of the recorded state from held-out chunks, and their effective rank."""
        features, states = sampled_states(model, store, chunks=True)
        metrics = {
            "effective_rank": effective_rank(features["held_out"]),
            "dimensions": float(features["train"].shape[1]),
        }
        if states["train"].shape[1]:
            metrics |= probe_error(features, states, store.info.states)
        return metrics
