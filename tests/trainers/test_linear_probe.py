import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.trainers.language_align import mirrored
from hnet_vjepa.trainers.linear_probe import effective_rank, fit_probe, probe_error
from hnet_vjepa.trainers.probe_train import average_precision


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=30, unique_by=lambda p: p[0]))
def test_average_precision_against_its_definition(pairs: list[tuple[int, bool]]) -> None:
    if not any(true for _, true in pairs):
        return
    ranked = sorted(pairs, key=lambda p: -p[0])
    found, total = 0, 0.0
    for rank, (_, true) in enumerate(ranked, 1):
        if true:
            found += 1
            total += found / rank
    scores, truth = np.array([float(s) for s, _ in pairs]), np.array([t for _, t in pairs])
    assert average_precision(scores, truth) == pytest.approx(total / found)


def test_effective_rank_of_known_spectra() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(200, 8)))[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    assert effective_rank(basis) == pytest.approx(8.0, rel=1e-6)
    assert effective_rank(basis[:, :1] @ rng.normal(size=(1, 8))) == pytest.approx(1.0, abs=1e-6)


def test_the_readout_finds_a_linear_map_and_does_not_learn_noise_by_heart() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3))
    features = {"train": rng.normal(size=(400, 50)), "held_out": rng.normal(size=(200, 50))}
    states = {half: x @ truth * 0.01 + 0.5 for half, x in features.items()}
    metrics = probe_error(features, states, ("x [m]", "y [m]", "z [m]"))
    assert metrics["linear_probe_r2"] > 0.999
    assert metrics["linear_probe_cm"] < 0.02 * metrics["linear_probe_cm_mean_baseline"]
    few = {"train": rng.normal(size=(60, 300)), "held_out": rng.normal(size=(60, 300))}
    noise = {half: rng.normal(size=(60, 3)) for half in few}
    assert probe_error(few, noise, ("x [m]", "y [m]", "z [m]"))["linear_probe_r2"] > -0.3


def test_a_readout_maps_new_rows_as_it_maps_old_ones() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4))
    fitted = fit_probe(x, x[:, :2] * 3 + 1)
    np.testing.assert_allclose(fitted(x[:5]), x[:5, :2] * 3 + 1, atol=0.02)


def test_mirror_images_of_sentences() -> None:
    assert mirrored("go left of the right one") == "go right of the left one"
    assert mirrored("put it upright, far-left") == "put it upright, far-right"
    assert mirrored("nothing here") == "nothing here"
