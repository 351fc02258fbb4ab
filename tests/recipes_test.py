"""Recipes on the command line of a subcommand, read as main.py reads them."""

import dataclasses
import pathlib
import typing

import pytest

from ilias_jax.config import BenchmarkConfig, parse, read_words, with_defaults
from ilias_jax.errors import UserError

# ml_collections loads a recipe in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
DEMO = f"--config={pathlib.Path(__file__).parents[1]}/configs/demo.py"


def test_overrides_and_the_recipes_argument_are_read():
    config = read_words("x", [DEMO + ":8", "--config.search.k=5", "--config.model.dtype=bfloat16"])
    assert (config.dataset.world.seed, config.search.k, config.model.dtype) == (8, 5, "bfloat16")


def test_two_recipes_in_one_process_do_not_mix():
    assert read_words("x", [DEMO, "--config.search.k=5"]).search.k == 5
    assert read_words("x", [DEMO]).search.k == 1000


def test_a_recipe_has_every_key_that_the_command_line_may_set():
    recipe = with_defaults(
        {"search": {"k": 7, "scann": {"num_leaves": 40}}, "model": {"name": "m"}}
    )
    plain = recipe.to_dict()
    for section in dataclasses.fields(BenchmarkConfig):
        hint = typing.get_type_hints(BenchmarkConfig)[section.name]
        names = {field.name for field in dataclasses.fields(hint)}
        assert names - {"world"} == plain[section.name].keys()
    assert (plain["search"]["k"], plain["model"]["name"]) == (7, "m")
    assert plain["search"]["scann"]["num_leaves"] == 40
    usual = parse({"dataset": {"data_dir": "d"}, "model": {}, "search": {"k": 7}})
    plain["search"]["scann"]["num_leaves"] = 0
    assert parse({**plain, "dataset": {"data_dir": "d"}, "model": {}}) == usual


def test_a_recipes_misspelt_key_is_refused_all_the_same():
    plain = with_defaults({"dataset": {"data_dir": "d"}, "search": {"kk": 7}}).to_dict()
    with pytest.raises(UserError, match=r"search.kk is no key of the config"):
        parse(plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([DEMO, "--config.search.kk=5"], "search.kk is no key of the config; did you mean search"),
        ([DEMO, "--config.search.k=abc"], "--config.search.k=abc"),
        ([DEMO, "--config.search.k=0"], "search.k=0 is not allowed; it must be >= 1"),
        ([DEMO, "--wrkdir=x"], "wrkdir"),
        ([DEMO, "config.search.k=5"], "unknown arguments: config.search.k=5; flags begin with --"),
        (["--config=nowhere.py"], "--config nowhere.py cannot be read; for example --config conf"),
        ([], "--config is missing; for example --config configs/demo.py"),
        ([DEMO + ":x"], "demo.py:x: the part after the colon is a world's seed"),
    ],
)
def test_a_mistake_is_a_message(words, message):
    with pytest.raises(UserError) as caught:
        read_words("x", words)
    assert message in str(caught.value)
