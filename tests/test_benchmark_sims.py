"""The suite's runner: what its rows say of themselves."""

import pytest

from benchmarks.sims import EPISODES, FAR_EPISODES, RECIPES, command_of
from hnet_vjepa.config import load_config
from sims.registry import get_task


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        ((False, EPISODES, FAR_EPISODES), "python -m benchmarks.sims reacher"),
        ((True, EPISODES, FAR_EPISODES), "python -m benchmarks.sims reacher --zoo"),
        ((True, 100, 20), "python -m benchmarks.sims reacher --zoo --episodes 100 --far-episodes 20"),
    ],
)
def test_a_row_names_the_command_that_makes_it_again(asked: tuple[bool, int, int], command: str) -> None:
    assert command_of("reacher", *asked) == command


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_of_a_task_and_a_configuration_that_exist(name: str) -> None:
    recipe = RECIPES[name]
    assert get_task(name).name == name
    config = load_config(recipe.config)
    assert all(config.phase(phase).steps > 0 for phase in recipe.phases)
    assert set(recipe.told) <= {"text", "label"}
