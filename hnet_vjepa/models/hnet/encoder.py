"""Low-level encoder: a causal ResNet-3D without temporal stride, which can run frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = dict[int, Tensor]

# Bytes from which on glibc gives a block back to the system after every use (DEFAULT_MMAP_THRESHOLD_MAX). To be given
# them anew made 4 clips of 32 x 224 x 224 pixels cost half as much again per clip as one of them, in bf16.
PIECE = 32 * 2**20


class CausalConv3d(nn.Conv3d):
    """3-D convolution whose kernel reaches only backwards in time, and whose outputs lie in the middle of their cells.

    Kernel and padding are such that output j is centred on inputs j*s .. j*s + s - 1, s being the stride: positions,
    hidden pixels and pictures of chunks all count on that. (An odd kernel would be centred half a cell too far up and
    left.)

    The past before the first frame is that frame repeated: a clip starts as if the scene had been at rest, and a single
    goal picture stands for a scene at rest.

    Raises ValueError when the spatial kernel and the stride differ by an odd number.
    """

    def __init__(self, channels: int, out: int, kernel: tuple[int, int], stride: int = 1, bias: bool = False) -> None:
        time, space = kernel
        if (space - stride) % 2:
            raise ValueError(f"a kernel of {space} with stride {stride} can not be centred on its cells")
        padding = (0, (space - stride) // 2, (space - stride) // 2)
        super().__init__(channels, out, (time, space, space), (1, stride, stride), padding, bias=bias)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """B x C x T x H x W -> B x C' x T x H' x W'. ``cache`` holds the last frames between calls of a stream."""
        past = self.kernel_size[0] - 1
        if not past:
            # Every frame alone: in two dimensions, where bf16 on a CPU (oneDNN 3.12) convolves three channels twice as
            # fast and others as fast.
            frames = x.transpose(1, 2).flatten(0, 1)  # BT x C x H x W
            y = F.conv2d(frames, self.weight.squeeze(2), self.bias, self.stride[1:], self.padding[1:])
            return y.unflatten(0, (len(x), -1)).transpose(1, 2)
        before = cache.get(id(self)) if cache is not None else None
        if before is None:
            before = x[:, :, :1].expand(-1, -1, past, -1, -1)
        x = torch.cat([before, x], 2)  # B x C x (past + T) x H x W
        if cache is not None:
            cache[id(self)] = x[:, :, -past:]
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every position: no statistics over space, time, samples or ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """B x C x T x H x W -> the same. Channels are last in memory, so nothing is copied."""
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 and a shortcut (He et al. 2016; Hara et al. 2018).

    The first convolution looks at ``time`` frames; where it halves the picture it is 4 x 4.
    """

    def __init__(self, channels: int, out: int, time: int, stride: int) -> None:
        super().__init__()
        self.first = CausalConv3d(channels, out, (time, 2 + stride), stride)
        self.first_norm = ChannelNorm(out)
        self.second = CausalConv3d(out, out, (1, 3))
        self.second_norm = ChannelNorm(out)
        same = channels == out and stride == 1
        self.shortcut = None if same else CausalConv3d(channels, out, (1, stride), stride)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """B x C x T x H x W -> B x C' x T x H' x W'."""
        y = F.relu(self.first_norm(self.first(x, cache)))
        y = self.second_norm(self.second(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class LowLevelEncoder(nn.Module):
    """ResNet-3D with a strided stem and one stage per width; every stage after the first halves the picture.

    Args:
        stem_width, stem_stride: channels and spatial stride of the first convolution.
        widths: channels of each stage; the last is D.
        depths: residual blocks of each stage.
        times: frames that the blocks of each stage look at (1: a frame alone).
    """

    def __init__(
        self,
        stem_width: int,
        stem_stride: int,
        widths: Sequence[int],
        depths: Sequence[int],
        times: Sequence[int],
    ) -> None:
        super().__init__()
        self.stride = stem_stride * 2 ** (len(widths) - 1)
        self.dim = widths[-1]
        self.history = sum(depth * (time - 1) for depth, time in zip(depths, times, strict=True))
        self.stem = CausalConv3d(3, stem_width, (1, 2 * stem_stride), stem_stride)
        self.stem_norm = ChannelNorm(stem_width)
        blocks, channels = [], stem_width
        for stage, (width, depth, time) in enumerate(zip(widths, depths, times, strict=True)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(channels, width, time, stride))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, video: Tensor, cache: Cache | None = None) -> Tensor:
        """Encode normalised video B x T x H x W x 3 to features B x T x H' x W' x D, H' = H / stride (rounded up)."""
        frames, height, width = video.shape[1:4]
        places = frames * -(-height // self.stem.stride[1]) * -(-width // self.stem.stride[2])
        stem = places * self.stem.out_channels * video.element_size()  # bytes of a clip's largest tensor
        fit = max(1, PIECE // max(1, stem))  # clips
        if video.device.type == "cpu" and cache is None and not torch.is_grad_enabled() and len(video) > fit:
            return torch.cat([self._encode(some, None) for some in video.split(fit)])
        return self._encode(video, cache)

    def _encode(self, video: Tensor, cache: Cache | None) -> Tensor:
        x = video.permute(0, 4, 1, 2, 3)  # B x 3 x T x H x W, already channels-last in memory
        below, right = -x.shape[-2] % self.stride, -x.shape[-1] % self.stride
        if below or right:  # a picture that is no whole number of cells is continued by its last row and column
            x = F.pad(x.flatten(1, 2), (0, right, 0, below), "replicate").unflatten(1, (3, -1))
        x = F.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x, cache)
        return x.permute(0, 2, 3, 4, 1)  # B x T x H' x W' x D

    def stream(self, frame: Tensor, cache: Cache) -> Tensor:
        """Encode one more frame (B x H x W x 3) of a running stream: B x H' x W' x D.

        ``cache`` starts as an empty dict and belongs to one stream. The result equals the last frame of ``forward``
        on all frames so far.
        """
        return self.forward(frame.unsqueeze(1), cache).squeeze(1)
