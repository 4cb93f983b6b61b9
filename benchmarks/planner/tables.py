"""The planner's tables for the docs, from ``benchmarks/results/planner.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.table import Rate, Table
from sims.evaluation.units import in_unit, length, shown_in


def latency(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Wall and CPU time of a plan, ours and the peer's."""
    part = parts["latency"]
    rows = []
    for row in part["rows"]:
        wall = " / ".join(_ms(row["wall_ms"][q]) for q in ("p50", "p95", "p99"))
        inside = [_ms(row[key]["p50"]) if key in row else "–" for key in ("encode_ms", "search_ms")]
        rows.append([row["who"], str(row["threads"]), wall, *inside, f"{row['cpu_s']:.3g}", str(row["plans"])])
    peer = part["settings"]["peer"]
    search = part["settings"]["search"]
    note = (
        f"The planner searches {_search(search)}. The peer is a network of LeWM's size ({peer['parameters'] / 1e6:.1f} "
        f"million parameters; {peer['origin']}) under plain CEM with {peer['candidates']} candidates, "
        f"{' or '.join(map(str, peer['iterations']))} iterations and {peer['horizon']} blocks of {peer['block']} "
        "actions; only its cost means something."
    )
    head = ["", "threads", "ms p50 / p95 / p99", "encode, p50", "search, p50", "CPU-seconds", "plans"]
    return Table(head, rows, note, ("latency",))


def episode(parts: Mapping[str, Any], rate: Rate) -> Table:
    """CPU-seconds per episode, ours and the peer's."""
    part = parts["episode"]
    ours, theirs = part["planner"]["cpu_s"] * part["plans"], part["peer"]["cpu_s"] * part["peer_plans"]
    rows = [
        [
            "planner, every action planned anew",
            f"{part['plans']:.0f}",
            f"{part['planner']['cpu_s']:.3g}",
            f"{ours:.3g}",
            rate(part["success"]["end"]),
        ],
        [
            "peer x10, a plan done without looking",
            f"{part['peer_plans']}",
            f"{part['peer']['cpu_s']:.3g}",
            f"{theirs:.3g}",
            "assumed to be the same",
        ],
    ]
    settings = part["settings"]
    note = (
        f"{settings['pairs']} episodes of {part['steps']} steps, goals {settings['distance']} steps away, one thread: "
        f"the peer costs {theirs / ours:.0f} times as much."
    )
    head = ["", "plans", "CPU-seconds per plan", "per episode", f"within {settings['tolerance']} at the end"]
    return Table(head, rows, note, ("episode",))


def pareto(parts: Mapping[str, Any], rate: Rate) -> Table:
    """The sweep, cheapest first."""
    part = parts["pareto"]
    settings = part["settings"]
    rows = [
        [
            _search(row) + (" (default)" if row["default"] else ""),
            "on the front" if row["front"] else "",
            rate(row["success_end"]),
            f"{shown_in(settings['unit'])[0] * row['final_distance']:.2g}",
            _ms(row["wall_ms"]["p50"]),
            f"{1e3 * row['cpu_s']:.1f}",
        ]
        for row in sorted(part["rows"], key=lambda row: float(row["cpu_s"]))
    ]
    note = f"{settings['pairs']} dev pairs of {settings['task']}, one thread, 95 % intervals in brackets."
    within, away = f"within {settings['tolerance']} at the end", in_unit("ends away, median", settings["unit"])
    head = ["candidates x iterations x horizon", "", within, away, "ms p50", "CPU ms"]
    return Table(head, rows, note, ("pareto",))


def ablation(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Every variant on every task, at the task's second criterion, with how it compares on the same pairs."""
    names = tuple(name for name in parts if name.startswith("ablation-"))
    rows = []
    for name in names:
        part = parts[name]
        for i, (method, found) in enumerate(part["summary"].items()):
            criterion = list(found["success"])[1]
            compared = part["comparisons"].get(method)
            cells = ["–", "–"]
            if compared:
                pair = compared["success_end"][criterion]
                against = "" if compared["against"] == "planner" else f" (against '{compared['against']}')"
                cells[0] = f"{-100 * pair['difference']:+.0f} points, p = {pair['p_value']:.2g}{against}"
                cells[1] = f"{_signed(compared['further'], part['settings']['unit'])}"
            rows.append(
                [
                    f"`{part['settings']['task']}`, within {criterion}" if i == 0 else "",
                    method,
                    rate(found["success"][criterion]["end"]),
                    *cells,
                ]
            )
    note = "Success at the end on dev pairs, one thread; comparisons are pair by pair (exact McNemar test)."
    return Table(["", "method", "success", "against the planner", "ends further away by"], rows, note, names)


def trained_peer(parts: Mapping[str, Any], rate: Rate) -> Table:
    """The peer trained for as long, beside the planner, floor and ceiling."""
    part = parts["trained-peer"]
    rows = []
    for method, found in part["summary"].items():
        compared = part["comparisons"].get(method)
        against = "–"
        if compared:
            pair = next(iter(compared["success_end"].values()))
            against = f"{-100 * pair['difference']:+.0f} points, p = {pair['p_value']:.2g}"
        first = next(iter(found["success"].values()))
        rows.append([method, rate(first["ever"]), rate(first["end"]), against])
    settings, losses = part["settings"], part["losses"]
    note = (
        f"`{settings['task']}`, {settings['pairs']} dev pairs, goals {settings['distance']} steps away, twice as many "
        f"steps to get there, within {next(iter(part['summary']['planner']['success']))}. The peer "
        f"({settings['parameters'] / 1e6:.1f} million parameters) made {len(losses)} steps of {settings['clips']} "
        f"clips on the same {settings['episodes']} episodes; its loss went from {losses[0]:.3g} to {losses[-1]:.3g}."
    )
    return Table(["", "ever", "at the end", "against the planner"], rows, note, ("trained-peer",))


def far(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Far goals: every method at the loosest criterion, with how it compares on the same pairs."""
    names = tuple(name for name in parts if name.startswith("far-"))
    rows = []
    for name in names:
        asked = None
        for row in parts[name]["rows"]:
            criterion, found = next(iter(row["success"].items()))
            away = "the task's own" if row["distance"] is None else f"{row['distance']} steps away"
            goals = f"`{parts[name]['settings']['task']}`, {row['kind']}s, {away}; {criterion}, {row['pairs']} pairs"
            against = "–"
            if row["compared"]:
                pair = row["compared"]["success_end"][criterion]
                against = f"{-100 * pair['difference']:+.0f} points, p = {pair['p_value']:.2g}"
                against += f" (against '{row['compared']['against']}')"
            shown, asked = ("" if goals == asked else goals), goals
            rates = [rate(found[when]) for when in ("ever", "end")]
            rows.append([shown, row["method"], *rates, against, _ms(row["plan_ms"]["p50"])])
    note = (
        "Dev pairs, one thread; a method has twice the distance in steps, or the task's own number of actions; "
        "comparisons are pair by pair (exact McNemar test)."
    )
    return Table(["goals", "method", "success ever", "at the end", "end, compared", "ms p50"], rows, note, names)


def deadlines(parts: Mapping[str, Any], rate: Rate) -> Table:
    """How late the service is."""
    part = parts["deadline"]
    rows = [
        [
            f"{row['deadline_ms']:.0f} ms",
            _search(row["search"]),
            *(" / ".join(f"{row[who][q]:+.1f}" for q in ("p50", "p95", "p99")) for who in ("client_ms", "server_ms")),
            f"{100 * row['met']:.1f} %",
            f"{row['iterations']:.1f}",
        ]
        for row in part["rows"]
    ]
    asked = " or ".join(sorted({str(row["requests"]) for row in part["rows"]}))
    note = (
        f"{asked} requests each, one after another over a socket, for a search that takes longer; "
        "milliseconds after the deadline, negative before it."
    )
    head = [
        "deadline",
        "search",
        "seen by the client, p50 / p95 / p99",
        "by the service",
        "met, says the service",
        "iterations",
    ]
    return Table(head, rows, note, ("deadline",))


def memory(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Whether memory stays flat."""
    part = parts["memory"]
    plans = part["settings"]["plans"]
    rows = [[str(count), f"{held:.0f}"] for count, held in zip(plans, part["rss_mb"], strict=True)]
    growth = part["rss_mb"][-1] - part["rss_mb"][0]
    note = f"Every plan has pictures and a goal never seen before; between the two {growth:+.1f} MiB."
    return Table(["plans made", "memory held, MiB"], rows, note, ("memory",))


def calibration(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Probabilities that came with plans, by tenths, beside how many of these plans reached the goal."""
    part = parts["calibration"]
    settings = part["settings"]
    rows = [
        [str(row["rollouts"]), f"{100 * row['said']:.0f} %", f"{100 * row['came_true']:.0f} %"]
        for row in part["reliability"]
    ]
    factor, unit = shown_in(settings["unit"])
    note = (
        f"{sum(row['rollouts'] for row in part['reliability'])} plans of {settings['actions']} actions on "
        f"{settings['split']} pairs of {settings['task']}, within {factor * settings['tolerance']:g} {unit}; the curve "
        f"was fitted to {settings['fitted_to']}."
    )
    return Table(["plans", "probability, mean", "reached the goal"], rows, note, ("calibration",))


def ood(parts: Mapping[str, Any], rate: Rate) -> Table:
    """How often pictures are called unfamiliar, those that are and those that are not."""
    rows = [
        [
            row["kind"],
            "yes" if row["strange"] else "no",
            f"{100 * row['rate']:.0f} % ({100 * row['low']:.0f}–{100 * row['high']:.0f})",
            str(row["pictures"]),
        ]
        for row in parts["familiarity"]["rows"]
    ]
    note = "Goal pictures of test pairs, as they are and made strange; 95 % Wilson intervals in brackets."
    return Table(["goal pictures", "strange", "called unfamiliar", "pictures"], rows, note, ("familiarity",))


def alternatives(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Every search on every task at both budgets, with how it compares with ours on the same pairs."""
    names = tuple(name for name in parts if name.startswith("alternatives-"))
    rows = []
    for name in names:
        settings, last = parts[name]["settings"], ""
        for row in parts[name]["rows"]:
            cells = ["–", "–"]
            if row["against"]:
                pair = row["against"]["success_end"][settings["criterion"]]
                cells = [
                    f"{-100 * pair['difference']:+.0f} points, p = {pair['p_value']:.2g}",
                    _signed(row["against"]["further"], settings["unit"]),
                ]
            about = f"`{settings['task']}`, within {settings['criterion']}, {_search(row['search'])}"
            rows.append(
                [
                    about if about != last else "",
                    "CEM (ships)" if row["who"] == "planner" else row["who"],
                    rate(row["success_end"]),
                    *cells,
                    f"{row['imagined']:.0f}",
                    f"{1e3 * row['cpu_s']:.1f}",
                ]
            )
            last = about
    note = (
        "Success at the end on dev pairs, one thread; imagined steps without those of the learnt proposal, which all "
        "have; a step that is differentiated counts three times. Comparisons are pair by pair (exact McNemar test)."
    )
    head = ["", "search", "success", "against ours", "ends further away by", "steps per plan", "CPU ms per plan"]
    return Table(head, rows, note, names)


def avoiding(parts: Mapping[str, Any], rate: Rate) -> Table:
    """A place in the way, with and without the wish to avoid it."""
    part = parts["composition"]
    settings = part["settings"]
    rows = [
        [
            row["who"],
            f"{100 * row['inside']:.1f} %",
            f"{row['steps_inside']:.1f}",
            f"{100 * row['never_inside']:.0f} %",
            rate(row["success_end"][-1]),
            f"{shown_in(settings['unit'])[0] * row['final_distance']:.2g}",
        ]
        for row in part["around"]
    ]
    note = (
        f"The first {settings['pairs']} dev pairs of {settings['task']} of which the scripted way leads through the "
        f"place that is {' and '.join(settings['place'])}; {_search(settings['search'])}, `avoid_weight` "
        f"{settings['avoid_weight']:g}. Where the robot is says the simulator."
    )
    strict = f"within {length(settings['tolerance'], settings['unit'])} at the end"
    away = in_unit("ends away, median", settings["unit"])
    head = ["", "steps in the place", "of these per episode", "episodes without any", strict, away]
    return Table(head, rows, note, ("composition",))


def over_steps(parts: Mapping[str, Any], rate: Rate) -> Table:
    """How energies count over the steps: plans that are done to their end without looking."""
    part = parts["composition"]
    settings = part["settings"]
    factor = shown_in(settings["unit"])[0]
    rows = [
        [
            row["cost"],
            *(f"{factor * row[key]:.2g}" for key in ("nearest", "mean", "end")),
            f"{row['nearest_at']:.1f}",
            f"{row['moved']:.1f}",
        ]
        for row in part["over_steps"]
    ]
    note = (
        f"One plan for each of {settings['pairs']} dev pairs of {settings['task']} ({_search(settings['wide'])}), done "
        "without looking; medians over the pairs, of the last two columns means."
    )
    unit = settings["unit"]
    head = [
        "cost",
        *(in_unit(what, unit) for what in ("nearest", "mean of the steps", "end")),
        "nearest after action",
        "squared size of actions",
    ]
    return Table(head, rows, note, ("composition",))


def in_part(parts: Mapping[str, Any], rate: Rate) -> Table:
    """Goal pictures with something foreign in a corner, whole and in part."""
    part = parts["composition"]
    settings = part["settings"]
    rows = [
        [
            row["who"],
            *(rate(found) for found in (row["success_end"][0], row["success_end"][-1])),
            f"{shown_in(settings['unit'])[0] * row['final_distance']:.2g}",
        ]
        for row in part["in_part"]
    ]
    note = (
        f"{settings['pairs']} dev pairs of {settings['task']}; a bright square of {settings['patch']} x "
        f"{settings['patch']} pixels in the upper left corner of the goal picture."
    )
    unit = settings["unit"]
    within = [f"within {length(settings[key], unit)} at the end" for key in ("loosest", "tolerance")]
    return Table(["goal picture", *within, in_unit("ends away, median", unit)], rows, note, ("composition",))


def dynamics(parts: Mapping[str, Any], rate: Rate) -> Table:
    """What the variants of the dynamics cost and achieve, task by task."""
    names = tuple(name for name in parts if name.startswith("dynamics-"))
    rows, steps = [], []
    for name in names:
        settings = parts[name]["settings"]
        short = settings["short"]
        steps.append(f"{short['pretrain.steps']} + {short['action.steps']} on {settings['task']}")
        for i, row in enumerate(parts[name]["rows"]):
            compared, factor = row["against_first"], shown_in(row["unit"])[0]
            rows.append(
                [
                    "" if i else f"`{settings['task']}`, within {row['within']}",
                    row["variant"],
                    rate(row["success_end"]),
                    " / ".join(f"{100 * share:.0f}" for share in row["trainings"]),
                    f"{100 * compared['difference']:+.0f} points, p = {compared['p_value']:.2g}" if i else "–",
                    f"{factor * row['final_distance']:.2g} {shown_in(row['unit'])[1]}",
                    f"{row['open_loop']:.3f}",
                    "–" if row["open_loop_cm"] is None else f"{row['open_loop_cm']:.1f}",
                    f"{row['cpu_ms']:.1f}",
                    f"{row['train_cpu_s']:.0f}",
                ]
            )
    note = (
        "Far fewer steps than the presets' (of the shared pretraining + of each variant's action phase): "
        f"{', '.join(steps)}. One thread, the same search for all. Success at the end on dev pairs by the models of "
        "all trainings, with its 95 % interval, then of each, compared with the first row pair by pair (exact McNemar "
        "test); that does not count chance between trainings. 'Imagined' is the mean error of states imagined on "
        "held-out episodes: over 1 to 10 steps, as a share of that of 'nothing moves', and of the place that is read "
        "from them after as many steps as a plan has."
    )
    head = [
        "",
        "dynamics",
        "success",
        "of each training [%]",
        "against the first",
        "ends away, median",
        "imagined, share",
        "imagined [cm]",
        "CPU ms per plan",
        "training [CPU s]",
    ]
    return Table(head, rows, note, names)


TABLES: dict[str, Callable[[Mapping[str, Any], Rate], Table]] = {
    "planner-latency": latency,
    "planner-episode": episode,
    "planner-pareto": pareto,
    "planner-ablation": ablation,
    "planner-trained-peer": trained_peer,
    "planner-far": far,
    "planner-deadlines": deadlines,
    "planner-memory": memory,
    "planner-calibration": calibration,
    "planner-familiarity": ood,
    "planner-alternatives": alternatives,
    "planner-avoiding": avoiding,
    "planner-over-steps": over_steps,
    "planner-in-part": in_part,
    "planner-dynamics": dynamics,
}


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _search(search: Mapping[str, Any]) -> str:
    return f"{search['candidates']} x {search['iterations']} x {search['horizon']}"


def _signed(further: Mapping[str, float], unit: str) -> str:
    factor, name = shown_in(unit)
    low, middle, high = (factor * further[key] for key in ("low", "median", "high"))
    return f"{middle:+.3g} {name} [{low:+.3g}, {high:+.3g}]"
