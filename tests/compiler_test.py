"""The program's own compiler options: known to this XLA, in effect, and dropped where unknown."""

from collections.abc import Iterator

import jax
import pytest

from ilias_jax import compiler
from ilias_jax.compiler import compiler_options


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_products_on_cpus_are_not_those_of_ynnpack() -> None:
    options = compiler_options("cpu")
    assert options
    shape = jax.ShapeDtypeStruct((512, 512), "float32")
    program = jax.jit(lambda x, y: x @ y, compiler_options=options).lower(shape, shape).compile()
    text = program.as_text()
    assert "dot(" in text and "__ynn" not in text


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_get_none(platform: str) -> None:
    assert compiler_options(platform) == {}


def test_an_option_that_xla_does_not_know_is_left_out_and_logged(monkeypatch, caplog) -> None:
    monkeypatch.setattr(compiler, "_CPU", {"xla_cpu_no_such_option": "1"})
    with caplog.at_level("INFO"):
        assert compiler_options("cpu") == {}
    assert "xla_cpu_no_such_option" in caplog.text
