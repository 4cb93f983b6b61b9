"""Tables of chunking.json, and that a missing part leaves the other tables unaffected."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import record, render
from benchmarks.chunking import attention_curve, counts, forward_speed, paired, saliency, scores, study
from benchmarks.chunking.attention_curve import ROBOTS, Curve
from benchmarks.chunking.large_vit import Large
from benchmarks.chunking.small_models import CELLS, METHODS, TOKENS, TUBELETS
from benchmarks.chunking.tables import TABLES
from benchmarks.table import MissingPartError, Parts, Result, Table, origin

ABOUT = {"date": "2026-01-02", "commit": "0123", "machine": {"cpu": "a CPU", "cores": 2}}


def study_part() -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    level = {"chunks": 50.0, "uniform": 48.0, "random": 40.0, "merge": 51.0}
    cells = [
        paired.Cell(task, tokens, method, seed, tokens + 0.1, 1.5, *(level[method] + rng.normal(0, 2, 4)))
        for seed, task, tokens, method in itertools.product(study.SEEDS, scores.NEAR, TOKENS, METHODS)
    ]
    cells += [replace(c, method=TUBELETS, tokens=CELLS) for c in cells[:: 2 * len(METHODS)]]
    tubelets = {"tokens": CELLS, "blocks": 4, "flops_ratio": 1.0}
    settings = {
        "tubelets": tubelets,
        "score": "mean of them",
        "pairs": 24,
        "distance": 15,
        "interval": "95 %",
        "unit": "a pair of models",
    }
    floor = {task: {"random": 4.0, "replay": 99.0} for task in scores.NEAR}
    part = {"settings": settings, "table": paired.means(cells), "success_bounds": floor}
    return part, paired.metrics(cells)


def speed_part() -> tuple[dict[str, Any], dict[str, Any]]:
    forward = [
        {"side": side, "way": way, "seconds_per_clip": seconds, "peak_mb": mb, "parts": parts}
        for way in forward_speed.WAYS
        for side, seconds, mb, parts in (
            ("chunks", 0.5, 300.0, {"encoder": 0.3, "transformer": 0.2}),
            ("tubelets", 6.0, 1200.0, {"tubelets": 0.1, "attention": 4.0, "MLPs": 1.9}),
        )
    ]
    rows: list[dict[str, float]] = []
    for tokens in (196, 980, 1960, 9800):
        row = {"tokens": tokens, "gathered": 1e-5 * tokens, "full": 5e-9 * tokens**2}
        row |= {"dense": 2e-8 * tokens**2} if tokens < 4000 else {}
        rows.append({**row, **{f"{way}_mb": tokens / 10 for way in row if way != "tokens"}})
    short = [{"tokens": 64.0 * n, "gathered": 1e-3, "dense": 1e-4, "full": 1e-5} for n in (1, 2)]
    settings = {
        "forward": {"sizes": Large().as_json(), "batch": 2, "rounds": 3},
        "attention": {"curve": asdict(Curve()), "robots": asdict(ROBOTS), "path_changes_at": 1500, "rounds": 3},
        "training": {"sizes": Large().as_json(), "batch": 2, "rounds": 3, "precision": "bf16"},
    }
    metrics = {
        **forward_speed.ratios(forward),
        **attention_curve.figures(rows, Curve()),
        "train_step_s": 20.0,
        "train_step_s_recompute": 26.04,
        "train_peak_mb": 9000.0,
        "train_peak_mb_recompute": 7000.4,
    }
    return {
        "settings": settings,
        "forward": {"rows": forward},
        "attention": {"rows": rows, "robots_rows": short},
    }, metrics


def saliency_part() -> tuple[dict[str, Any], dict[str, Any]]:
    cells = [
        saliency.Cell(kind, seed, 8.0, divergence, 50.0, 40.0, 60.0, 10.0 + gain * seed)
        for kind, divergence, gain in (("attention", 0.9, 0.0), ("loss", 0.5, 3.0), ("mean", 0.25, -6.0))
        for seed in (1, 2)
    ]
    settings = {"task": "fetch-push", "tokens": 8, "episodes": 9, "seeds": 2, "weight": 0.1, "score": "mean of them"}
    table, metrics = saliency.summarise(cells)
    return {"settings": settings, "table": table}, metrics


def counts_part() -> tuple[dict[str, Any], dict[str, Any]]:
    rows = [
        counts.Row(model, budget, clip, see, 0.01, counts.Counts(1, chunks, 9, chunks), 2 * chunks, chunks)
        for model, budget in (("a", False), ("b", False), ("outputs/c", True))
        for clip, see, chunks in (("street", 0.1, 8.0), (counts.PLAIN, 0.0, 2.0))
    ]
    part = {"settings": {"window": 8}, "rows": [asdict(row) for row in rows]}
    return part, counts.metrics(rows, ["street"])


@pytest.fixture
def result() -> dict[str, Any]:
    """The content of a chunking.json with all its parts."""
    content: dict[str, Any] = {"metrics": {}, "parts": {}}
    rebuilt = {"settings": {"frames": 9, "cells": 64, "data": "toy", "chunks": 8.04, "steps": 3}}
    explained = {"reconstruction_explained_chunks": 0.5, "reconstruction_explained_with_residual": 0.75}
    made = {"study": study_part(), "speed": speed_part(), "counts": counts_part(), "saliency": saliency_part()}
    made["reconstruction"] = (rebuilt, explained)
    frame = {"before": 4, "stream": 0.003, "clip": 0.0151, "difference": 2e-7}
    made["streaming"] = ({"settings": {"side": 64, "history": 4, "threads": 1}, "rows": [frame]}, {})
    for name, (part, metrics) in made.items():
        content["metrics"] |= metrics
        content["parts"][name] = {**ABOUT, "command": f"make {name}", **part}
    return dict(json.loads(json.dumps(content)))


@pytest.fixture
def tables(result: dict[str, Any]) -> dict[str, Table]:
    return {name: make(Result(Parts(result["parts"]), result["metrics"])) for name, make in TABLES.items()}


def test_every_table_is_complete(tables: dict[str, Table]) -> None:
    for name, table in tables.items():
        assert table.rows and table.note.endswith("."), name
        assert {len(row) for row in table.rows} == {len(table.head)}, name


def test_the_study_has_a_row_for_every_kind_of_model(tables: dict[str, Table], result: dict[str, Any]) -> None:
    rows = tables["chunking-study"].rows
    assert len(rows) == 2 * 2 * 4 + 2
    assert rows[0][:4] == ["`fetch-push`", "8", "chunks", "8.1 ± 1.5"]
    found = result["metrics"]
    for row in tables["chunking-differences"].rows:
        other = row[0].removeprefix("chunks − ")
        mean, low = (found[f"chunks_minus_{other}_points_{key}"] for key in ("mean", "low95"))
        assert row[1] == f"{mean:+.1f} (from {low:+.1f})" and low < mean
        assert row[-1] == "12"
    assert "over units (a unit is a pair of models)" in tables["chunking-differences"].note


def test_streaming_shows_the_time_of_one_more_frame(tables: dict[str, Table]) -> None:
    assert tables["chunking-streaming"].rows == [["4", "3.0", "15.1", "2e-07"]]


def test_saliency_shows_the_difference_of_each_kind(tables: dict[str, Table]) -> None:
    first, loss, mean = tables["chunking-saliency"].rows
    assert first == ["attention", "0.90", "50.0", "40.0", "60.0", "10.0", "40.0", "–"]
    # A third of what success gains counts: 1 and 2 points, or -2 and -4.
    assert loss[-1] == "+1.5 ± 0.5" and mean[-1] == "-3.0 ± 1.0" and mean[1] == "0.25"


def test_speed_is_relative_to_v_jepa_2(tables: dict[str, Table]) -> None:
    first, second = tables["chunking-forward"].rows[:2]
    assert first == ["fp32", "chunks", "196", "0.50", "12.0", "300", "0.25"]
    assert second == ["fp32", "V-JEPA 2", "3136", "6.00", "1", "1200", "1"]
    assert len(tables["chunking-modules"].rows) == 5
    assert tables["chunking-training"].rows[1] == ["blocks recomputed", "26.0", "7000"]
    curve = tables["chunking-attention"]
    assert curve.rows[-1] == ["9800", "98", "–", "480", "980", "–", "980"]
    assert "faster than the dense path from 500 tokens on" in curve.note
    assert "power 1.00 of the tokens" in curve.note and "than full attention from 2000 tokens on" in curve.note
    robots = tables["chunking-attention-robots"]
    assert "at no measured length; the code uses it from 1500 tokens on" in robots.note


def test_counts_are_shown_beside_detail_and_motion(tables: dict[str, Table]) -> None:
    rows = tables["chunking-counts"].rows
    assert [row[0] for row in rows] == ["`a`", "", "`b`", "", "`outputs/c` (budget)", ""]
    assert rows[0][1:] == ["street", "0.100", "0.010", "8 (1–9)", "16.0", "8.0"]
    assert tables["chunking-follows"].head == ["", "every winner", "budget"]
    assert [row[1] for row in tables["chunking-follows"].rows] == ["0.50", "0.25", "1.00"]


def test_a_missing_part_leaves_only_its_own_tables_empty(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    names = ("chunking-study", "chunking-counts", "planner-latency", "planner-ablation", "planner-memory")
    page.write_text("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names))
    for module in (record, render):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert render.rendered(page) == page.read_text()
    del result["parts"]["study"]
    (tmp_path / "chunking.json").write_text(json.dumps(result))
    memory = {**ABOUT, "command": "make memory", "settings": {"plans": [10, 20]}, "rss_mb": [100.0, 100.26]}
    (tmp_path / "planner.json").write_text(json.dumps({"metrics": {}, "parts": {"memory": memory}}))
    filled = dict(zip(names, render.rendered(page).split("<!-- end -->\n"), strict=False))
    for name in ("chunking-study", "planner-latency", "planner-ablation"):
        assert filled[name] == f"<!-- table: {name} -->\n"
    assert "| street | 0.100 |" in filled["chunking-counts"]
    assert filled["chunking-counts"].endswith(
        "Written by `make counts` on 2026-01-02 (a CPU, 2 cores; commit 0123).\n\n"
    )
    assert "| 20 | 100 |" in filled["planner-memory"] and "growth +0.3 MiB." in filled["planner-memory"]
    with pytest.raises(MissingPartError):
        Parts({})["any"]


def test_several_parts_name_every_command_and_commit() -> None:
    made = [{**ABOUT, "command": f"make {name}", "commit": commit} for name, commit in (("a", "9"), ("b", "1"))]
    assert origin(*made) == "\nWritten by `make a`, `make b` on 2026-01-02 (a CPU, 2 cores; commits 1, 9).\n"


def test_a_crossover_at_the_smallest_length_means_every_length() -> None:
    rows: list[dict[str, float]] = [{"tokens": 100.0}, {"tokens": 200.0}]
    assert attention_curve.faster(100.0, rows) == "at every measured length"
    assert attention_curve.faster(150.4, rows) == "from 150 tokens on"
    assert attention_curve.faster(None, rows) == "at no measured length"
