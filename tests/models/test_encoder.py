import pytest
import torch

from hnet_vjepa.models.hnet.encoder import Cache, LowLevelEncoder


def make(times=(2, 3)) -> LowLevelEncoder:
    torch.manual_seed(0)
    return LowLevelEncoder(8, 4, (8, 16), (1, 1), times)


def test_shape_and_stride_also_for_odd_sizes() -> None:
    encoder = make()
    assert encoder.stride == 8
    assert encoder(torch.randn(2, 3, 64, 64, 3)).shape == (2, 3, 8, 8, 16)
    assert encoder(torch.randn(1, 1, 50, 70, 3)).shape == (1, 1, 7, 9, 16)


def test_the_future_cannot_be_seen() -> None:
    encoder, video = make(), torch.randn(1, 6, 32, 32, 3)
    changed = video.clone()
    changed[:, 4:] = torch.randn(1, 2, 32, 32, 3)
    before, after = encoder(video), encoder(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_motion_is_seen_within_history_and_no_further() -> None:
    encoder, video = make(), torch.randn(1, 8, 32, 32, 3)
    assert encoder.history == 3
    for back, seen in ((1, True), (encoder.history, True), (encoder.history + 1, False)):
        changed = video.clone()
        changed[:, 7 - back] += 1.0
        assert torch.allclose(encoder(video)[:, 7], encoder(changed)[:, 7]) != seen


@pytest.mark.parametrize("times", [(1, 1), (1, 2), (3, 2)])
def test_a_stream_equals_the_clip(times: tuple[int, int]) -> None:
    encoder, video = make(times).double(), torch.randn(2, 7, 32, 32, 3).double()
    cache: Cache = {}
    streamed = torch.stack([encoder.stream(video[:, t], cache) for t in range(7)], 1)
    torch.testing.assert_close(streamed, encoder(video), rtol=1e-10, atol=1e-12)


def test_a_scene_at_rest_looks_like_its_first_frame() -> None:
    encoder, frame = make(), torch.randn(1, 1, 32, 32, 3)
    still = encoder(frame.expand(-1, 5, -1, -1, -1))
    torch.testing.assert_close(still[:, 4], still[:, 0])


@pytest.mark.parametrize("size", [96, 100])
def test_a_cell_sees_what_lies_in_it(size: int) -> None:
    """The pixels that a cell is most sensitive to lie around its middle, which positions and hidden pixels count on."""
    torch.manual_seed(0)
    encoder = LowLevelEncoder(8, 4, (8, 16), (1, 1), (1, 1)).double()
    centres = []
    for seed in range(20):
        torch.manual_seed(seed)
        video = torch.randn(1, 1, size, size, 3).double().requires_grad_()
        out = encoder(video)
        (out[0, 0, 5, 6] * torch.randn(16).double()).sum().backward()
        assert video.grad is not None
        weight = video.grad[0, 0].abs().sum(-1)
        steps = torch.arange(size).double() + 0.5
        centres.append(
            [float((weight.sum(1) * steps).sum() / weight.sum()), float((weight.sum(0) * steps).sum() / weight.sum())]
        )
    row, column = torch.tensor(centres).mean(0).tolist()
    assert row == pytest.approx(44.0, abs=0.5) and column == pytest.approx(52.0, abs=0.5)
