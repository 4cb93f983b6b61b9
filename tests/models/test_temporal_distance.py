"""The temporal distance against what a walk through a known maze really takes."""

import torch

from hnet_vjepa.losses.temporal import FAR, SOFTNESS, TIGHTNESS, temporal_distance_loss
from hnet_vjepa.models.temporal_distance import TemporalDistance


def test_the_loss_is_the_formula_of_its_docstring() -> None:
    torch.manual_seed(0)
    embedded = torch.randn(3, 4, 2, dtype=torch.float64) * 2
    points = embedded.reshape(12, 2)
    spread = sum(
        float(torch.log1p(torch.exp(SOFTNESS * (FAR - (a - b).norm()))) / SOFTNESS) for a in points for b in points
    )
    step = [max(0.0, float((clip[t + 1] - clip[t]).norm()) - 1) ** 2 for clip in embedded for t in range(3)]
    expected = (spread / 144 + TIGHTNESS * sum(step) / len(step)) / TIGHTNESS
    assert abs(float(temporal_distance_loss(embedded)) - expected) < 1e-3


def test_it_is_a_distance_in_whatever_leading_shape() -> None:
    torch.manual_seed(0)
    steps = TemporalDistance(4, 2)
    a, b, c = torch.randn(3, 5, 6, 2, 4)
    assert steps(a, b).shape == (5, 6)
    torch.testing.assert_close(steps(a, b), steps(b, a))
    assert (steps(a, a) == 0).all()
    assert (steps(a, c) <= steps(a, b) + steps(b, c) + 1e-5).all()


def test_it_learns_the_way_around_a_wall_and_not_the_straight_line() -> None:
    """States on a horseshoe of 41 places; a walker goes one place at a time. The two ends are nearer to each other
    in the plane than to the middle, and forty steps apart on foot.
    """
    torch.manual_seed(0)
    angle = torch.linspace(0.2, 1.8, 41) * torch.pi
    places = torch.stack([angle.sin(), angle.cos()], -1)  # 41 x 2
    steps = TemporalDistance(2, 1, width=64)
    optimizer = torch.optim.Adam(steps.parameters(), lr=3e-3)
    for _ in range(1200):
        start, way = torch.randint(0, 41, (32,)), torch.randint(0, 2, (32, 1)) * 2 - 1
        walk = (start[:, None] + way * torch.arange(6)).clamp(0, 40)  # 32 x 6
        loss = temporal_distance_loss(steps.embed(places[walk][..., None, :]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        far = float(steps(places[0][None], places[40][None]))
        middle = float(steps(places[0][None], places[20][None]))
        near = float(steps(places[10][None], places[11][None]))
    assert (places[0] - places[40]).norm() < 0.7 * (places[0] - places[20]).norm()
    assert far > 1.5 * middle > 0
    assert far > 20
    assert 0.7 < near < 1.3
