import numpy as np

from hnet_vjepa.data.transforms import augment


def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 3, 12, 16, 3), dtype=np.uint8)


def test_without_settings_nothing_changes() -> None:
    assert np.array_equal(augment(clips(), range(6), 0, 0, 0.0), clips())


def test_what_a_clip_gets_depends_on_its_key_alone() -> None:
    together = augment(clips(), [4, 9, 2, 7, 1, 3], 5, 3, 0.2)
    assert np.array_equal(augment(clips()[1:2], [9], 5, 3, 0.2)[0], together[1])
    assert not np.array_equal(augment(clips(), [4, 9, 2, 7, 1, 3], 6, 3, 0.2), together)


def test_all_frames_of_a_clip_move_alike_and_the_border_is_repeated() -> None:
    changed = augment(clips(), range(6), 0, 3, 0.0)
    for before, after in zip(clips(), changed, strict=True):
        places = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if np.array_equal(after[:, 3:9, 3:13], before[:, 3 - down : 9 - down, 3 - right : 13 - right])
        ]
        assert len(places) == 1
        down, _ = places[0]
        if down > 0:
            assert np.array_equal(after[:, 0], after[:, down])


def test_brightness_scales_all_pixels_alike() -> None:
    grey = np.full((50, 2, 4, 4, 3), 100, np.uint8)
    changed = augment(grey, range(50), 0, 0, 0.2)
    levels = changed[:, 0, 0, 0, 0]
    assert (changed == levels[:, None, None, None, None]).all()
    assert levels.min() < 90 and levels.max() > 110 and levels.min() >= 80 and levels.max() <= 120
