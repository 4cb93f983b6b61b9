import pytest
import torch

from hnet_vjepa.models.transformer import Attention, Block, key_bias
from hnet_vjepa.models.vjepa.predictor import Predictor
from hnet_vjepa.models.vjepa.vit import HNetViT
from tests import toy


def make(**changes: object) -> HNetViT:
    torch.manual_seed(0)
    backbone = toy.config().model.backbone
    return HNetViT(backbone.model_copy(update=changes))


def test_shapes_of_everything() -> None:
    out = make()(torch.randn(2, 4, 32, 32, 3), window=2)
    assert out.tokens.shape == (2, 2, 4, 16)
    assert out.centroids.shape == (2, 2, 4, 3)
    assert out.sizes.shape == out.mask.shape == (2, 2, 4)
    assert out.assignment.shape == (2, 2, 32, 9)
    assert out.attention.shape == (2, 2, 4, 9)
    assert out.grid == (2, 4, 4)
    assert out.cell_slots().shape == (2, 2, 32)
    assert out.flat()[0].shape == (2, 8, 16)


def test_windows_stand_alone_unless_asked_to_look_across() -> None:
    model, video = make(), torch.randn(1, 4, 32, 32, 3)
    changed = video.clone()
    changed[:, 3] = torch.randn(32, 32, 3)
    alone, alone_changed = model(video).tokens, model(changed).tokens
    torch.testing.assert_close(alone[:, :3], alone_changed[:, :3])
    assert not torch.allclose(model(video, across=True).tokens[:, :3], model(changed, across=True).tokens[:, :3])


def test_a_single_frame_and_a_frame_of_a_clip_at_rest_agree() -> None:
    model, frame = make(), torch.randn(1, 1, 32, 32, 3)
    clip = model(frame.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(clip.tokens[:, 2], model(frame).tokens[:, 0], rtol=1e-4, atol=1e-5)


def test_the_windows_place_in_time_is_in_the_centroids() -> None:
    out = make()(torch.randn(1, 6, 32, 32, 3), window=2, across=True)
    times = out.centroids[0, :, :, 0].mean(-1)
    torch.testing.assert_close(times, torch.tensor([0.5, 2.5, 4.5]), atol=0.3, rtol=0)


def test_padded_frames_change_nothing() -> None:
    model, video = make(), torch.randn(1, 2, 32, 32, 3)
    padding = torch.tensor([[False, True]])
    changed = video.clone()
    changed[:, 1] = 50.0
    a, b = model(video, window=2, padding=padding), model(changed, window=2, padding=padding)
    torch.testing.assert_close(a.tokens, b.tokens)
    everything = model(video, window=2, padding=torch.ones(1, 2, dtype=torch.bool))
    assert torch.isfinite(everything.tokens).all()
    assert everything.mask.all()


def test_a_clip_that_does_not_fit_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="3 frames can not be cut into windows of 2"):
        make()(torch.randn(1, 3, 32, 32, 3), window=2)


def test_odd_sizes_are_encoded() -> None:
    assert make()(torch.randn(1, 1, 45, 37, 3)).tokens.shape == (1, 1, 4, 16)


def test_recomputed_activations_give_the_same_gradients() -> None:
    video, weight = torch.randn(2, 2, 32, 32, 3), torch.randn(2, 2, 4, 16)
    gradients = []
    for recompute in (False, True):
        model = make(vit=toy.config().model.backbone.vit.model_copy(update={"recompute": recompute}))
        (model(video, across=True).tokens * weight).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_every_weight_gets_gradient() -> None:
    model = make()
    out = model(torch.randn(2, 2, 32, 32, 3), across=True)
    (out.tokens * torch.randn_like(out.tokens)).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_log_size_makes_a_key_weigh_as_much_as_its_copies() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2).double(), torch.randn(1, 3, 8).double()
    context = torch.randn(1, 2, 8).double()
    copied = context[:, [0, 1, 1, 1]]
    sizes = torch.tensor([[1.0, 3.0]]).double().log()
    torch.testing.assert_close(attention(x, context, key_bias(None, sizes)), attention(x, copied))


def test_masked_keys_do_not_count() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 2), torch.randn(2, 5, 8)
    mask = torch.tensor([[False, False, False, True, True], [True] * 5])
    changed = x.clone()
    changed[0, 3:] = 9.0
    torch.testing.assert_close(block(x, key_bias(mask))[0, :3], block(changed, key_bias(mask))[0, :3])
    assert torch.isfinite(block(x, key_bias(mask))).all()


def test_the_predictor_answers_for_the_place_it_is_asked_about() -> None:
    torch.manual_seed(0)
    predictor = Predictor(16, 8, 1, 2)
    context, places, sizes = torch.randn(1, 6, 16), torch.randn(1, 6, 3), torch.ones(1, 6)
    unseen = torch.tensor([[False, False, False, False, True, True]])
    asked = torch.randn(1, 4, 3)
    out = predictor(context, places, sizes, unseen, asked, torch.ones(1, 4))
    assert out.shape == (1, 4, 16)
    turned = predictor(context, places, sizes, unseen, asked.flip(1), torch.ones(1, 4))
    torch.testing.assert_close(turned.flip(1), out)
    hidden = context.clone()
    hidden[:, 4:] = 7.0
    torch.testing.assert_close(predictor(hidden, places, sizes, unseen, asked, torch.ones(1, 4)), out)
