"""All modules of one world model, and the robot and camera that they are made for."""

from __future__ import annotations

import copy

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from hnet_vjepa.config import Config
from hnet_vjepa.models.hnet.dechunker import Dechunker
from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.probe import AttentiveProbe
from hnet_vjepa.models.state_decoder import StateDecoder
from hnet_vjepa.models.text import StateProjector, TextEncoder
from hnet_vjepa.models.vjepa.predictor import Predictor
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.models.world_model import WorldModel, with_motion
from hnet_vjepa.specs import ActionSpec, CameraSpec


class Robot(BaseModel):
    """The robot that a model is made for: camera, actions, labels.

    ``states`` names the recorded numbers that supervise the planning state; empty without state supervision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    camera: CameraSpec
    action: ActionSpec
    labels: tuple[str, ...] = ()
    states: tuple[str, ...] = ()


class HNetVJEPA(nn.Module):
    """Backbone (the chunk encoder), its EMA target, and what each phase adds.

    Planning state: S = M' slots of ``state_dim`` numbers, a linear layer of the slots of one control step.
    """

    def __init__(self, config: Config, robot: Robot) -> None:
        super().__init__()
        self.config, self.robot = config, robot
        model, slots = config.model, config.model.backbone.slots
        self.backbone = HNetViT(model.backbone)
        dim, state_dim = self.backbone.dim, model.world_model.state_dim
        self.target = copy.deepcopy(self.backbone).requires_grad_(False)
        self.predictor = Predictor(dim, model.predictor.width, model.predictor.depth, model.predictor.heads)
        self.dechunker = Dechunker(dim, sigma=0.2)  # half the way between neighbouring prototypes
        rollout = config.action.clip_frames - 2  # two frames show the motion that it starts with
        self.world_model = WorldModel(dim, slots, len(robot.action.active), model.world_model, rollout)
        self.state_decoder = StateDecoder(state_dim, slots, len(robot.states)) if robot.states else None
        self.text = TextEncoder(model.text)
        self.projector = StateProjector(2 * state_dim, slots, model.text.width, model.text.embedding)
        self.probe = AttentiveProbe(2 * state_dim, slots, model.world_model.heads, max(1, len(robot.labels)))

    def states(self, video: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Planning state of every frame: normalised video B x T x H x W x 3 -> B x T x S x d and mask B x T x S.

        A frame's state depends only on that frame and earlier ones.
        """
        chunks = self.backbone(video, cache=cache)
        return self.world_model.readout(chunks.tokens).float(), chunks.mask

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def clip_states(self, frames: Tensor | None, features: Tensor | None) -> Tensor:
        """Planning states B x T x S x d of clips: frames B x T x H x W x 3, or the backbone's tokens B x T x S x D."""
        if features is not None:
            return self.world_model.readout(features).float()
        assert frames is not None
        return self.states(frames)[0]

    def read(self, states: Tensor) -> Tensor:
        """The input of the language and probe heads at the last of T states: B x T x S x d -> B x S x 2d.

        A single state is taken to be at rest.
        """
        return with_motion(states[:, -1], states[:, -2] if states.shape[1] > 1 else states[:, -1])

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the EMA target: target <- momentum * target + (1 - momentum) * backbone."""
        target = [p.detach() for p in self.target.parameters()]
        student = [p.detach() for p in self.backbone.parameters()]
        torch._foreach_lerp_(target, student, 1 - momentum)
