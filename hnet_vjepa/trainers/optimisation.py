"""One optimiser step over the ranks, and the optimiser's state, alike for one process, DDP and DeepSpeed's ZeRO."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hnet_vjepa.config import StageConfig
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.phase import Phase

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, of the shape of their parameter


class StageLoss(nn.Module):
    """The phase's loss as a module's forward, which is what data-parallel wrappers need to see."""

    def __init__(self, phase: Phase, model: HNetVJEPA, bf16: bool) -> None:
        super().__init__()
        self.phase, self.model, self.bf16 = phase, model, bf16

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its terms without gradient."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            terms = self.phase.loss(self.model, batch)
            total = torch.stack([term.float() for term in terms.values()]).sum()
        return total, {name: term.detach().float() for name, term in terms.items()}


@contextmanager
def _as_bytes(module: nn.Module) -> Iterator[None]:
    """Let DeepSpeed broadcast weights, which it views as bytes: in one piece, and scalars not at all.

    All ranks have the first one's weights already. A parameter with the attribute is left out (DeepSpeed 0.19).
    """
    scalars = [p for p in module.parameters() if p.ndim == 0]
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
    for parameter in scalars:
        parameter.ds_optim_param = True  # type: ignore[attr-defined]
    yield
    for parameter in scalars:
        del parameter.ds_optim_param  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Optimisation:
    """The wrapped loss, the wrapped optimiser, and the parameters that are trained."""

    accelerator: Accelerator
    loss: Any  # StageLoss, DistributedDataParallel or DeepSpeedEngine
    optimizer: Any
    trained: list[nn.Parameter]

    @classmethod
    def prepare(cls, accelerator: Accelerator, loss: StageLoss, config: StageConfig) -> Optimisation:
        """Wrap the loss for the accelerator's engine, with AdamW on the parameters that are trained."""
        trained = [p for p in loss.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        with _as_bytes(loss) if accelerator.distributed_type == DistributedType.DEEPSPEED else nullcontext():
            wrapped, wrapped_optimizer = accelerator.prepare(loss, optimizer)
        made = cls(accelerator, wrapped, wrapped_optimizer, trained)
        if made._zero is not None:
            made._begin_zero(made._zero)
        return made

    def set_learning_rate(self, rate: float) -> None:
        """The rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: Tensor, clip_norm: float) -> Tensor | None:
        """Accumulate the gradient and, in the step's last part, make the step unless the gradient is not finite.

        Returns the norm of the gradient over all ranks before clipping, where a step was due, else None.
        """
        self.accelerator.backward(loss)  # ZeRO clips and steps in here, and skips a step that is not finite
        norm = None
        if self.accelerator.sync_gradients:
            norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.trained, clip_norm)).float()
            if not norm.isfinite():
                return norm
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state by ``<number of the parameter>.<name>``, whole on every rank. All ranks call it."""
        found: dict[str, Tensor] = {}
        for number, parameter in enumerate(self.trained):
            for name, value in self._state_of(parameter).items():
                found[f"{number}.{name}"] = value.detach().contiguous().cpu()
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what ``state`` returned, under any engine and number of ranks."""
        by_parameter: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            number, name = key.split(".", 1)
            by_parameter.setdefault(int(number), {})[name] = value
        if self._zero is None:
            for index, values in by_parameter.items():
                parameter = self.trained[index]
                for name, value in values.items():
                    # The fused optimiser walks through memory: moments must lie there in the weight's own order.
                    laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                    self._plain.state[parameter][name] = laid_out
        else:
            self._load_zero(self._zero, by_parameter)

    def release(self) -> None:
        """Give the model back as it was wrapped: parameters with memory of their own, and no hooks."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.loss.destroy()
            for parameter in self.trained:
                parameter.data = parameter.data.clone()
        self.accelerator.free_memory()

    @property
    def _zero(self) -> Any | None:
        """DeepSpeed's sharded optimiser, where it is in use."""
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            return None
        return self.loss.optimizer if self.loss.zero_optimization() else None

    @property
    def _plain(self) -> torch.optim.Optimizer:
        """The AdamW object that holds whole moments."""
        found: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return found

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if self._zero is None:
            return dict(self._plain.state[parameter])
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
        steps = next(iter(self._zero.optimizer.state.values()))["step"]
        return {"step": torch.as_tensor(steps).float(), **moments}

    @staticmethod
    def _begin_zero(zero: Any) -> None:
        """Make the moments, all zero, before the first step, and link the parameters to their part of the shards.

        DeepSpeed links them after the step of the first of several groups, when the others have none yet (0.19).
        """
        for shard in zero.single_partition_of_fp32_groups:
            empty = {name: torch.zeros_like(shard) for name in MOMENTS}
            zero.optimizer.state[shard] = {"step": torch.zeros((), device=shard.device), **empty}
        zero._lazy_init_hp_params_optimizer_state()

    def _load_zero(self, zero: Any, by_parameter: dict[int, dict[str, Tensor]]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        for shard in zero.single_partition_of_fp32_groups:
            zero.optimizer.state[shard]["step"].copy_(next(iter(by_parameter.values()))["step"])
        for index, values in by_parameter.items():
            for name in MOMENTS:
                safe_set_full_optimizer_state(self.trained[index], values[name].to(zero.device), name)
