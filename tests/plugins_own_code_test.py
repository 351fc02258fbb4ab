import jax
import pytest

from ilias_jax.errors import UserError
from ilias_jax.plugins.own_code import own_code


def _their_function(values):
    return values["missing"]


def _message(call) -> str:
    with pytest.raises(UserError) as caught, own_code("model.factory=x raised"):
        call()
    return str(caught.value)


def test_the_traceback_begins_in_their_code():
    first, _, *lines = _message(lambda: _their_function({})).splitlines()
    assert first == "model.factory=x raised:"
    assert lines[0].startswith(f'  File "{__file__}"')
    assert any("in _their_function" in line for line in lines)
    assert lines[-1] == "KeyError: 'missing'"


def test_frames_of_jax_on_the_way_there_are_left_out():
    message = _message(lambda: jax.eval_shape(_their_function, {}))
    inside = message[message.index("_their_function") :]
    assert "KeyError: 'missing'" in inside
    first = next(line for line in message.splitlines() if line.startswith("  File"))
    assert __file__ in first


def test_an_exception_that_never_reaches_their_code_is_shown_whole():
    namespace = {}
    exec(compile("def far():\n    raise ValueError('here')", jax.__file__, "exec"), namespace)
    with pytest.raises(UserError) as caught, own_code("x"):
        namespace["far"]()
    assert "ValueError: here" in str(caught.value)
    assert caught.value.__cause__.args == ("here",)


def test_a_users_mistake_that_their_code_names_passes_as_it_is():
    def call():
        raise UserError("model.checkpoint is missing")

    assert _message(call) == "model.checkpoint is missing"


def test_an_interrupt_is_none_of_this():
    with pytest.raises(KeyboardInterrupt), own_code("x"):
        raise KeyboardInterrupt
