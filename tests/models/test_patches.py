import pytest
import torch
import torch.nn.functional as F

from hnet_vjepa.config import EncoderConfig
from hnet_vjepa.models.hnet.encoder import LowLevelEncoder
from hnet_vjepa.models.hnet.patches import PatchEncoder
from hnet_vjepa.models.vjepa.vit import HNetViT, make_encoder
from tests import toy


def test_without_blocks_a_patch_is_a_convolution_that_steps_as_far_as_it_sees() -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(4, 8, 0, 2)
    video = torch.randn(2, 3, 8, 12, 3)
    weight = encoder.embed.weight.view(8, 3, 4, 4)
    pictures = F.conv2d(video.flatten(0, 1).permute(0, 3, 1, 2), weight, encoder.embed.bias, stride=4)
    blank = encoder.position(torch.zeros(0, 1, 3), torch.zeros(0, 1))
    assert blank.shape == (0, 1, 8)
    out = encoder(video)
    assert out.shape == (2, 3, 2, 3, 8)
    wanted = pictures.permute(0, 2, 3, 1)  # BT x H' x W' x D
    with torch.no_grad():
        for parameter in encoder.position.parameters():
            parameter.zero_()
    torch.testing.assert_close(encoder(video).flatten(0, 1), encoder.norm(wanted))
    assert not torch.allclose(out, encoder(video))  # where a patch lies counts


def test_a_frame_is_alone_and_streams() -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(8, 16, 2, 4).eval()
    video = torch.randn(1, 3, 16, 20, 3)  # 20 is no whole number of patches
    out = encoder(video)
    assert out.shape == (1, 3, 2, 3, 16)
    torch.testing.assert_close(encoder.stream(video[:, 1], {}), out[:, 1])
    changed = video.clone()
    changed[:, 0] = 0
    torch.testing.assert_close(encoder(changed)[:, 1:], out[:, 1:])


def test_the_configuration_names_it() -> None:
    config = EncoderConfig(kind="patches", depths=(2, 1))
    encoder = make_encoder(config, 4)
    assert isinstance(encoder, PatchEncoder) and len(encoder.blocks) == 3
    convolutions = make_encoder(EncoderConfig(), 4)
    assert isinstance(convolutions, LowLevelEncoder)
    assert (encoder.stride, encoder.dim) == (convolutions.stride, convolutions.dim)
    with pytest.raises(ValueError, match="times = \\[1, 3\\]: patches are those of a frame alone"):
        EncoderConfig(kind="patches", times=(1, 3))


def test_the_whole_model_takes_it() -> None:
    config = toy.config().model.backbone
    patches = config.model_copy(update={"encoder": config.encoder.model_copy(update={"kind": "patches"})})
    model = HNetViT(patches)
    out = model(torch.randn(2, 2, 32, 32, 3))
    out.tokens.square().sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
