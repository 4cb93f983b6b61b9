"""The report of an evaluation: one self-contained HTML file with rates, intervals, plots and videos."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.text import TextGoal
from sims.core.task import Task
from sims.evaluation.pairs import Pair
from sims.evaluation.results import HELD, EvaluationResult, MethodResult, Rollout, about
from sims.evaluation.robustness import Sweep
from sims.evaluation.statistics import Rate, percentiles
from sims.evaluation.units import in_unit, length, shown_in
from sims.reporting.plots import colour, distances, fulfilled, latencies, sweeps
from sims.reporting.videos import episode_gif

VIDEOS = 4  # of successes, and of failures

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f5f7; color: #262d38; }
body { font: 15px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 14px 0 6px; }
section { background: #fff; border: 1px solid #e1e5ea; border-radius: 10px; padding: 20px 22px; margin-top: 18px; }
p { margin: 6px 0; } .quiet { color: #6b7480; font-size: 13px; }
.lead { font-size: 17px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 9px; text-align: right; border-bottom: 1px solid #e8ebef; white-space: nowrap; }
th { font-weight: 600; font-size: 13px; color: #4b5563; } th:first-child, td:first-child { text-align: left; }
th.group { border-bottom: 0; padding-bottom: 0; }
th.group + th.group { border-left: 6px solid #fff; text-align: center; }
table.words th, table.words td { white-space: normal; text-align: left; }
td small { color: #6b7480; font-size: 12px; display: block; line-height: 1.25; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 7px; }
img { max-width: 100%; display: block; } img.plot { width: 760px; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(390px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid #e1e5ea; border-radius: 8px; padding: 8px; }
figure img { image-rendering: pixelated; } figcaption { font-size: 13px; color: #4b5563; margin-top: 4px; }
"""


@dataclass(frozen=True)
class Section:
    """A further part of the report: ``body`` is HTML that is put in as it is, or the bytes of a PNG."""

    title: str
    body: str | bytes


def render_report(
    task: Task,
    result: EvaluationResult,
    pairs: Sequence[Pair],
    extra: Sequence[Section] = (),
    varied: Sequence[Sweep] = (),
) -> bytes:
    """Return the report of an evaluation as one HTML file (UTF-8). ``pairs``: those that were evaluated.

    ``extra``: sections to append, such as the training report's. ``varied``: robustness sweeps.
    """
    planned = [m for m in result.methods if m.latencies()]
    parts = [Section("Result", _lead(result) + _table(result) + _reading(result))]
    if result.goal == "image":
        parts.append(
            Section("Distance to the goal", _plot(distances(result, task.tolerances)) + _note("Median and quartiles."))
        )
    else:
        parts.append(Section("Share of episodes that fulfil the goal", _plot(fulfilled(result))))
    if varied:
        parts.append(Section("Factors of variation", _variation(varied, result)))
    for method in planned:
        parts.append(Section(f"Latency: {method.name}", _latency(result, method, task)))
    for method in planned or result.methods:
        parts += _videos(result, method, pairs)
    parts.append(Section("Conditions", _conditions(result)))
    body = "".join(_section(part) for part in [*parts, *extra])
    title = f"{task.name}: {about(result)}"
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1><p class='quiet'>{html.escape(task.description)}</p>{body}"
        "</main></body></html>\n"
    )
    return page.encode()


def _section(part: Section) -> str:
    body = part.body if isinstance(part.body, str) else _plot(part.body)
    return f"<section><h2>{html.escape(part.title)}</h2>{body}</section>"


def _embed(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _plot(png: bytes) -> str:
    return f"<img class='plot' alt='' src='{_embed(png, 'png')}'>"


def _note(text: str) -> str:
    return f"<p class='quiet'>{html.escape(text)}</p>"


def _percent(rate: Rate) -> str:
    return f"{100 * rate.value:.0f} %<small>{100 * rate.low:.0f} – {100 * rate.high:.0f}</small>"


def _lead(result: EvaluationResult) -> str:
    method = result.main
    rate = method.end(0)
    what = (
        "fulfilled the goal at the end" if result.goal != "image" else f"ended within {result.criteria[0]} of the goal"
    )
    others = ", ".join(f"{m.name} {m.end(0).successes}" for m in result.methods if m is not method)
    text = (
        f"{rate.successes} of {rate.trials} episodes {what} (95 % interval {100 * rate.low:.0f} to "
        f"{100 * rate.high:.0f} %){'; ' + others if others else ''}."
    )
    return f"<p class='lead'>{html.escape(method.name.capitalize())}: {html.escape(text)}</p>"


def _table(result: EvaluationResult) -> str:
    factor, _ = shown_in(result.unit)
    groups = [("method", [""]), ("criterion", [""]), ("success", ["ever", "at the end", "held"])]
    if result.goal == "image":
        groups += [(in_unit("final distance", result.unit), ["median"]), ("energy", ["rank corr."])]
    groups.append(("plan latency [ms]", ["p50", "p95", "p99"]))
    rows = []
    for method in result.methods:
        more = []
        if result.goal == "image":
            low, middle, high = (factor * d for d in percentiles(method.final_distances(), (25, 50, 75)))
            more.append(f"{middle:.3g}<small>{low:.3g} – {high:.3g}</small>")
            rank = result.rank_correlation(method)
            more.append(f"{rank.median:.2f}<small>{rank.low:.2f} to {rank.high:.2f}</small>" if rank else "–")
        plans = method.latencies()
        more += [f"{ms:.1f}" for ms in percentiles(plans, (50, 95, 99))] if plans else ["–"] * 3
        dot = f"<span class='dot' style='background:{colour(result, method.name)}'></span>"
        for i, criterion in enumerate(result.criteria):
            name = dot + html.escape(method.name) if i == 0 else ""
            rates = [_percent(rate) for rate in method.rates(i).values()]
            rows.append([name, html.escape(criterion), *rates, *(more if i == 0 else [""] * len(more))])
    return _grid(groups, rows)


def _grid(groups: Sequence[tuple[str, Sequence[str]]], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table with two lines of headings. Cells are HTML."""
    upper = "".join(f"<th class='group' colspan={len(names)}>{html.escape(group)}</th>" for group, names in groups)
    lower = "".join(f"<th>{html.escape(name)}</th>" for _, names in groups for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{upper}</tr><tr>{lower}</tr>{body}</table></div>"


def _reading(result: EvaluationResult) -> str:
    method = result.main
    note = (
        f"Success of {len(method.rollouts)} episodes of {result.steps} actions: after any of them, after the last, "
        f"after each of the last {HELD}; small: 95 % interval (Wilson), for the distance the quartiles. Every method "
        "played the same starts and goals, which collected data cannot contain."
    )
    if result.goal == "image":
        note += (
            " Rank correlation (Spearman): whether the model's energy grows with the true distance, over the steps of "
            "an episode; median over the episodes with its 95 % bootstrap interval."
        )
    if result.excluded:
        note += (
            f" {result.excluded} of {result.excluded + len(method.rollouts)} draws of a pair were rejected because the "
            "goal was too near to the start, or fulfilled there."
        )
    rows = []
    for other in (m for m in result.methods if m is not method):
        for i, criterion in enumerate(result.criteria):
            pair = result.compare(method.name, other.name, i)
            interval = f"<small>{100 * pair.low:+.0f} to {100 * pair.high:+.0f}</small>"
            numbers = [
                f"{100 * pair.difference:+.0f}{interval}",
                str(pair.only_first),
                str(pair.only_second),
                f"{pair.p_value:.2g}",
            ]
            rows.append([html.escape(f"{other.name}, {criterion}"), *numbers])
    columns = [("difference", ["points"]), ("episodes solved by one only", [method.name, "other"]), ("McNemar", ["p"])]
    heading = f"<h3>{html.escape(method.name.capitalize())} against the others, at the end, episode by episode</h3>"
    return _note(note) + (heading + _grid([("", [""]), *columns], rows) if rows else "")


def _variation(varied: Sequence[Sweep], result: EvaluationResult) -> str:
    sentences = "".join(f"<p>{html.escape(factor.sentence())}</p>" for factor in varied)
    note = (
        f"The same pairs, one factor at a time, its strength from 0 (as trained) to 1; the goal picture is taken under "
        f"it too. Success: {result.criteria[0]} at the end, with 95 % intervals (Wilson); grey: random actions."
    )
    return _plot(sweeps(varied)) + sentences + _note(note)


def _latency(result: EvaluationResult, method: MethodResult, task: Task) -> str:
    control = 1e3 * task.camera.dt
    plans = method.latencies()
    within = sum(ms <= control for ms in plans)
    text = f"{len(plans)} plans; {100 * within / len(plans):.1f} % within the control interval of {control:g} ms."
    keys = sorted({key for r in method.rollouts for key in r.server_ms})
    if keys:
        means = ", ".join(
            f"{key} {np.mean([r.server_ms[key] for r in method.rollouts if key in r.server_ms]):.1f}" for key in keys
        )
        text += f" Means that the planner reports, in ms: {means}."
    reports = [(r, t) for r in method.rollouts for t, believed in enumerate(r.believed) if believed]
    if reports:
        right = sum(r.met[t][0] for r, t in reports)
        text += f" It reported 'reached' {len(reports)} times; {right} times {result.criteria[0]} was true."
    return _plot(latencies(result, method, control)) + _note(text)


def _videos(result: EvaluationResult, method: MethodResult, pairs: Sequence[Pair]) -> list[Section]:
    with_frames = [r for r in method.rollouts if r.frames is not None]
    # Sorted by distance: a failure by 5 cm is more instructive than one by 2 cm.
    failures = sorted((r for r in with_frames if not r.end(-1)), key=lambda r: -r.distances[-1])[:VIDEOS]
    successes = [r for r in with_frames if r.end(-1)][:VIDEOS]
    strict = result.criteria[-1]
    good = f"Successes: {method.name} ({strict} at the end; the first {len(successes)})"
    bad = f"Failures: {method.name} (not {strict} at the end; the farthest {len(failures)})"
    sections = []
    for title, chosen in ((good, successes), (bad, failures)):
        if chosen:
            body = "<div class='videos'>" + "".join(_figure(r, pairs, result.unit) for r in chosen) + "</div>"
        else:
            body = _note("None.")
        sections.append(Section(title, body))
    return sections


def rollout_gif(rollout: Rollout, pairs: Sequence[Pair], unit: str) -> bytes:
    """One rollout beside its goal as an animated GIF; its frames must have been kept. ``unit``: of its distances."""
    pair = next(p for p in pairs if p.index == rollout.pair)
    assert rollout.frames is not None
    if pair.required:
        states = ["fulfilled" if row[0] else "not yet" for row in rollout.met]
    else:
        states = [length(d, unit) for d in rollout.distances]
    notes = [f"step {t}: {state}" for t, state in enumerate(states)]
    return episode_gif(rollout.frames, pair.goal_frame, notes, "one such state" if pair.required else "goal")


def _figure(rollout: Rollout, pairs: Sequence[Pair], unit: str) -> str:
    pair = next(p for p in pairs if p.index == rollout.pair)
    if isinstance(pair.goal, TextGoal):
        goal = f" “{pair.goal.text}” (the goal image is not given to the planner)"
    elif isinstance(pair.goal, LabelGoal):
        goal = f" {', '.join(pair.goal.labels)} (the goal image is not given to the planner)"
    else:
        goal = f" from {length(rollout.distances[0], unit)} to {length(rollout.distances[-1], unit)}"
    caption = html.escape(f"episode {rollout.pair}:{goal}")
    gif = _embed(rollout_gif(rollout, pairs, unit), "gif")
    return f"<figure><img alt='' src='{gif}'><figcaption>{caption}</figcaption></figure>"


def _conditions(result: EvaluationResult) -> str:
    facts = {
        "task": result.task,
        "goals": result.goal,
        **({} if result.distance is None else {"goal distance": f"{result.distance} steps of the environment"}),
        "split and seed": f"{result.split}, {result.seed}",
        **result.conditions,
    }
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td style='text-align:left;white-space:normal'>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    return f"<table>{rows}</table>"
