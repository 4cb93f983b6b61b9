"""Put the shipped models of format 1 into format 2, once: names, files, and the order of the policy prior's inputs.

Which of the two orders an exported checkpoint of format 1 has, its files do not say. The six named here were exported
before the prior's states were whitened (commit bc10987) and read slot by slot; the other eleven after it.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import FORMAT, Manifest, _own_hash
from hnet_vjepa.migration import (
    FILES,
    FIRST_LAYER,
    current_module,
    current_modules,
    rename_fields,
    slot_order_to_part_order,
)
from hnet_vjepa.utils.files import sha256, write_json_atomic

BY_SLOT = (
    "fetch-reach",
    "meta-world-reach",
    "meta-world-reach-wall",
    "meta-world-drawer-open",
    "meta-world-button-press",
    "point-maze",
)


def convert(path: Path) -> None:
    """Convert one checkpoint in place."""
    content = json.loads((path / "manifest.json").read_text())
    if content["format"] != 1:
        return
    manifest = Manifest.model_validate(content)
    fields, _ = rename_fields(json.loads((path / "config.json").read_text()), str(path))
    stored = safetensors.torch.load((path / "weights.safetensors").read_bytes())
    weights = {current_module(name): tensor for name, tensor in stored.items()}
    if path.name in BY_SLOT:
        rows, columns = fields["model"]["backbone"]["pooling"]["grid"]
        state_dim = fields["model"]["world_model"]["state_dim"]
        weights[FIRST_LAYER] = slot_order_to_part_order(weights[FIRST_LAYER], rows * columns, state_dim)
    (path / "weights.safetensors").write_bytes(safetensors.torch.save(weights))
    write_json_atomic(path / "config.json", fields)
    for old, new in FILES.items():
        if (path / old).is_file():
            (path / old).rename(path / new)
    names = [FILES.get(name, name) for name in manifest.files if name != "manifest.json"]
    update = {
        "format": FORMAT,
        "left_out": current_modules(manifest.left_out),
        "files": {name: sha256(path / name) for name in sorted(names)},
    }
    manifest = manifest.model_copy(update=update)
    manifest.files["manifest.json"] = _own_hash(manifest)
    write_json_atomic(path / "manifest.json", manifest.model_dump(mode="json"))


if __name__ == "__main__":
    for name in zoo.names():
        convert(zoo.path(name))
        print(name)
