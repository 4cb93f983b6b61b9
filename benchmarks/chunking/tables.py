"""The tables about chunks by name; each is made by the module that measures what it shows."""

from __future__ import annotations

from benchmarks.chunking import (
    attention_curve,
    counts,
    forward_speed,
    reconstruction,
    saliency,
    streaming,
    study,
    training_step,
)
from benchmarks.table import MakeTable

TABLES: dict[str, MakeTable] = {
    "chunking-study": study.table,
    "chunking-differences": study.differences_table,
    "chunking-forward": forward_speed.table,
    "chunking-modules": forward_speed.modules_table,
    "chunking-attention": attention_curve.table,
    "chunking-attention-robots": attention_curve.robots_table,
    "chunking-training": training_step.table,
    "chunking-saliency": saliency.table,
    "chunking-reconstruction": reconstruction.table,
    "chunking-streaming": streaming.table,
    "chunking-counts": counts.table,
    "chunking-follows": counts.follows_table,
}
