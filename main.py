"""Runs the ILIAS benchmark: `python main.py --config configs/demo.py --workdir runs/demo`."""


from absl import app, flags
from etils import epath
from ml_collections import config_flags

from ilias_jax import benchmark
from ilias_jax.config import parse

_CONFIG = config_flags.DEFINE_config_file("config", None, "recipe, such as configs/demo.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder or bucket of the results")


def main(argv: list[str]) -> None:
    benchmark.run(parse(_CONFIG.value.to_dict()), epath.Path(_WORKDIR.value))


if __name__ == "__main__":
    app.run(main)
