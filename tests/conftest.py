"""Two simulated devices, compiled programs that all processes share, and one miniature world.

Tests with the marker `eight_devices` run on eight: `devices_test.py` starts them in a process of their
own.
"""

import atexit
import os
import pathlib
import shutil
import signal
import tempfile

NUM_DEVICES = int(os.environ.get("ILIAS_TEST_DEVICES", "2"))
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The first process makes the folder; xdist's workers and the commands that tests start inherit it.
    _compiled = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
# No test may find files of this machine's user, nor ask the servers of the models for them.
os.environ["ILIAS_JAX_CACHE"] = "/nonexistent/ilias_jax"
os.environ["ILIAS_JAX_OFFLINE"] = "1"

# A shell lets what it runs in the background ignore Ctrl-C, and commands started here inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402  jax, imported below, reads the variables above

from ilias_jax.config import WorldConfig  # noqa: E402
from ilias_jax.dataset.synthetic.generate import make_world  # noqa: E402

SMALL_WORLD = WorldConfig(
    seed=3, num_objects=6, num_image_queries=8, num_positives=14, num_distractors=40, num_tars=3
)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a generated and converted world; read only."""
    folder = tmp_path_factory.mktemp("world") / "small"
    make_world(SMALL_WORLD, folder, num_processes=1)
    return folder
