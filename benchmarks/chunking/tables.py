"""The tables about chunks for the docs, from ``benchmarks/results/chunking.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.table import Table

SIDES = {"chunks": "chunks", "tubelets": "V-JEPA 2"}
WAYS = {"fp32": "fp32", "bf16_autocast": "bf16 autocast", "bf16": "bf16 weights"}
PATHS = ("gathered", "dense", "full")
OUTCOMES = {"score": "points", "object": "object_points", "labels": "labels_points", "success": "success_points"}


def study(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Every task, token count and tokenizer: the three outcomes, their mean, and the tokens that were really there."""
    part = parts["study"]
    settings, outcomes = part["settings"], ("object", "labels", "success", "score")
    rows = [
        [
            f"`{row['task']}`",
            str(row["tokens"]),
            row["method"],
            f"{row['live']:.1f} ± {row['live_std']:.1f}",
            *(f"{row[name]:.1f}" for name in outcomes),
        ]
        for row in part["table"]
    ]
    bounds = "; ".join(
        f"`{task}`: " + ", ".join(f"{name} {points:.0f}" for name, points in found.items())
        for task, found in part["success_bounds"].items()
    )
    note = (
        f"Points from 0 to 100, means over {metrics['seeds']} seeds; the score is the {settings['score']}. Live "
        f"tokens: mean and spread over held-out frames. Success: {settings['pairs']} dev pairs per seed, goals "
        f"{settings['distance']} steps away. Success without a model ({bounds})."
    )
    return Table(["task", "tokens", "tokenizer", "live tokens", *outcomes], rows, note, ("study",))


def differences(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Chunks minus every other tokenizer, with the lower end of the 95 % interval."""
    part = parts["study"]
    others = [name for name in dict.fromkeys(row["method"] for row in part["table"]) if name != "chunks"]
    rows = [
        [
            f"chunks − {other}",
            *(
                f"{metrics[f'chunks_minus_{other}_{kind}_mean']:+.1f} "
                f"(from {metrics[f'chunks_minus_{other}_{kind}_low95']:+.1f})"
                for kind in OUTCOMES.values()
            ),
            f"{metrics[f'chunks_minus_{other}_pairs']:.0f}",
        ]
        for other in others
    ]
    note = (
        f"Mean difference in points over units (a unit is {part['settings']['unit']}); in brackets the lower end of "
        f"its interval ({part['settings']['interval']}). The chunks' mean number of live tokens is off the others' by "
        f"at most {100 * metrics['tokens_off_most']:.1f} %. Tubelets: {part['settings']['tubelets']['tokens']} tokens, "
        f"{part['settings']['tubelets']['blocks']} blocks on all of them, "
        f"{part['settings']['tubelets']['flops_ratio']:.2f} times the operations of a frame in chunks."
    )
    return Table(["", *OUTCOMES, "units"], rows, note, ("study",))


def saliency(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Pooling by attention, by attention with a saliency loss, and by predicted saliency."""
    part = parts["saliency"]
    settings, kinds = (
        part["settings"],
        {"attention": "attention", "loss": "attention, saliency loss", "mean": "saliency"},
    )
    outcomes = ("object", "robot", "labels", "success", "score")
    rows = []
    for row in part["table"]:
        key = f"saliency_{row['kind']}_minus_attention_points"
        against = f"{metrics[f'{key}_mean']:+.1f} ± {metrics[f'{key}_std']:.1f}" if f"{key}_mean" in metrics else "–"
        numbers = [f"{row['divergence']:.2f}", *(f"{row[name]:.1f}" for name in outcomes), against]
        rows.append([kinds[row["kind"]], *numbers])
    note = (
        f"`{settings['task']}`, {settings['tokens']} chunks, {settings['episodes']} episodes, means over "
        f"{settings['seeds']} seeds; points from 0 to 100, the score is the {settings['score']}. Divergence: of what "
        f"the pooling attends to from the saliency, on held-out frames. Weight of the loss {settings['weight']:g}. "
        "Last column: mean and spread over the seeds."
    )
    return Table(["pooled by", "divergence", *outcomes, "score against the first"], rows, note, ("saliency",))


def reconstruction(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """How much of the cells' features the dechunker gives back."""
    settings = parts["reconstruction"]["settings"]
    rows = [
        ["chunks alone", f"{metrics['reconstruction_explained_chunks']:.2f}"],
        ["chunks and residual", f"{metrics['reconstruction_explained_with_residual']:.2f}"],
    ]
    note = (
        f"Share of the variance of {settings['cells']} cells' features on {settings['frames']} held-out frames of "
        f"`{settings['data']}`; {settings['chunks']:.1f} live chunks in the mean, {settings['steps']} steps "
        "of pretraining."
    )
    return Table(["made of", "variance explained"], rows, note, ("reconstruction",))


def streaming(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """One more frame of a running camera."""
    part = parts["streaming"]
    rows = [
        [f"{row['before']}", f"{1e3 * row['stream']:.1f}", f"{1e3 * row['clip']:.1f}", f"{row['difference']:.0e}"]
        for row in part["rows"]
    ]
    settings = part["settings"]
    note = (
        f"A backbone as in the presets, but looking {settings['history']} frames back; pictures of {settings['side']} "
        f"x {settings['side']} pixels, {settings['threads']} thread, medians. Difference: the largest of any number of "
        "the slots, which are of the order of 1."
    )
    return Table(["frames before", "as a stream, ms", "all frames again, ms", "difference"], rows, note, ("streaming",))


def forward(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """A forward pass of both sides in every precision."""
    settings, rows = parts["speed"]["settings"]["forward"], parts["speed"]["forward"]["rows"]
    sizes = settings["sizes"]
    slots = sizes["tokenizer"]["pooling"]["grid"]
    tokens = {
        "chunks": sizes["frames"] // sizes["window"] * slots[0] * slots[1],
        "tubelets": sizes["frames"] // 2 * (sizes["pixels"] // 16) ** 2,
    }
    cells = [
        [
            WAYS[row["way"]],
            SIDES[row["side"]],
            str(tokens[row["side"]]),
            f"{row['seconds_per_clip']:.2f}",
            f"{metrics['clips_ratio_vjepa2_' + row['way']]:.1f}" if row["side"] == "chunks" else "1",
            f"{row['peak_mb']:.0f}",
            f"{metrics['memory_ratio_vjepa2_' + row['way']]:.2f}" if row["side"] == "chunks" else "1",
        ]
        for row in rows
    ]
    note = (
        f"Clips of {sizes['frames']} frames of {sizes['pixels']} x {sizes['pixels']} pixels, {settings['batch']} at a "
        f"time, both sides with {sizes['depth']} blocks of width {sizes['width']} and random weights; medians of "
        f"{settings['rounds']} rounds in turn. Relative numbers are against V-JEPA 2 in the same precision."
    )
    head = ["", "encoder", "tokens", "seconds per clip", "clips per second, relative", "peak MiB", "relative"]
    return Table(head, cells, note, ("speed",))


def modules(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Where the time of a forward pass goes."""
    rows = parts["speed"]["forward"]["rows"]
    spent = {(row["side"], row["way"]): row["parts"] for row in rows}
    cells = [
        [SIDES[side], name, *(f"{spent[side, way][name]:.3f}" for way in WAYS)]
        for side in SIDES
        for name in spent[side, next(iter(WAYS))]
    ]
    note = "Seconds per clip inside each module, medians; what lies between the modules is not in them."
    return Table(["encoder", "module", *WAYS.values()], cells, note, ("speed",))


def attention(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Attention over clips that grow: time and memory."""
    speed = parts["speed"]
    curve = speed["settings"]["attention"]["curve"]
    rows = [
        [
            f"{row['tokens']:.0f}",
            *(_milliseconds(row, path) for path in PATHS),
            *(f"{row[f'{path}_mb']:.0f}" if f"{path}_mb" in row else "–" for path in PATHS),
        ]
        for row in speed["attention"]["rows"]
    ]
    crossing = [
        f"beats {what} from {metrics[key]:.0f} tokens on"
        for key, what in (
            ("crossover_tokens", "its dense path"),
            ("crossover_tokens_full_attention", "full attention alone"),
        )
        if key in metrics
    ]
    note = (
        f"Width {curve['dim']}, {curve['heads']} heads, cubes of {' x '.join(map(str, curve['cube']))}, batch "
        f"{curve['batch']}, fp32, medians. Above {curve['long']} tokens the time of sparse attention grows with the "
        f"power {metrics['nsa_exponent']:.2f} of the tokens and that of full attention with "
        f"{metrics['full_attention_exponent']:.2f}. The gathered path {' and '.join(crossing) or 'is never quicker'}. "
        "Full attention alone is no more than the product of queries, keys and values that are there already."
    )
    head = ["tokens", *(f"{path}, ms" for path in PATHS), *(f"{path}, MiB" for path in PATHS)]
    return Table(head, rows, note, ("speed",))


def attention_robots(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """The same at the sizes of the robots' models, time alone."""
    speed = parts["speed"]
    settings = speed["settings"]["attention"]
    curve = settings["robots"]
    rows = [
        [f"{row['tokens']:.0f}", *(_milliseconds(row, path) for path in PATHS)]
        for row in speed["attention"]["robots_rows"]
    ]
    key = "crossover_tokens_robots"
    found = f"is quicker from {metrics[key]:.0f} tokens on" if key in metrics else "is never quicker here"
    note = (
        f"Width {curve['dim']}, {curve['heads']} heads, cubes of {' x '.join(map(str, curve['cube']))}, batch "
        f"{curve['batch']}. The gathered path {found}; the code changes to it at {settings['path_changes_at']}."
    )
    return Table(["tokens", *(f"{path}, ms" for path in PATHS)], rows, note, ("speed",))


def training(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """A training step, with and without recomputing."""
    settings = parts["speed"]["settings"]["training"]
    rows = [
        [what, f"{metrics[f'train_step_s{end}']:.1f}", f"{metrics[f'train_peak_mb{end}']:.0f}"]
        for what, end in (("everything kept", ""), ("blocks recomputed", "_recompute"))
    ]
    note = (
        f"{settings['batch']} clips, {settings['precision']}, weights in fp32, AdamW; memory with weights, gradients "
        "and the optimiser's state."
    )
    return Table(["", "seconds per step", "peak MiB"], rows, note, ("speed",))


def counts(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Chunks per frame, every model on every clip."""
    part = parts["counts"]
    rows, last = [], ""
    for row in part["rows"]:
        found = row["counts"]
        name = f"`{row['model']}`" + (" (budget)" if row["budgeted"] else "")
        rows.append(
            [
                "" if name == last else name,
                row["clip"],
                f"{row['detail']:.3f}",
                f"{row['motion']:.3f}",
                f"{found['median']:g} ({found['least']}–{found['most']})",
                f"{row['moving']:.1f}",
                f"{row['held']:.1f}",
            ]
        )
        last = name
    window = part["settings"]["window"]
    note = (
        "Detail: mean difference of neighbouring pixels; motion: of a pixel and the one after it; both from 0 to 1. "
        f"Chunks per frame: median, least and most. Then chunks of windows of {window} frames, as they are and with "
        "their first frame repeated."
    )
    head = ["model", "clip", "detail", "motion", "chunks per frame", f"per {window} frames", "held"]
    return Table(head, rows, note, ("counts",))


def follows(parts: Mapping[str, Any], metrics: Mapping[str, float]) -> Table:
    """Whether the number of chunks follows content, with and without a budget."""
    budgeted = {row["budgeted"] for row in parts["counts"]["rows"]}
    asked = {
        "chunks of a real clip held still, over those of the clip as it moves": "still_over_busy_chunks",
        "chunks of one grey, over those of the real clips": "plain_over_busy_chunks",
        "rank correlation of chunks with detail, over all clips": "chunks_follow_detail",
    }
    kinds = [(False, "every winner", ""), (True, "budget", "_budgeted")]
    shown = [(what, end) for kind, what, end in kinds if kind in budgeted]
    rows = [[what, *(f"{metrics[key + end]:.2f}" for _, end in shown)] for what, key in asked.items()]
    return Table(["", *(what for what, _ in shown)], rows, "Means over the models of each kind.", ("counts",))


TABLES: dict[str, Callable[[Mapping[str, Any], Mapping[str, float]], Table]] = {
    "chunking-study": study,
    "chunking-differences": differences,
    "chunking-forward": forward,
    "chunking-modules": modules,
    "chunking-attention": attention,
    "chunking-attention-robots": attention_robots,
    "chunking-training": training,
    "chunking-saliency": saliency,
    "chunking-reconstruction": reconstruction,
    "chunking-streaming": streaming,
    "chunking-counts": counts,
    "chunking-follows": follows,
}


def _milliseconds(row: Mapping[str, float], path: str) -> str:
    return f"{1e3 * row[path]:.3g}" if path in row else "–"
