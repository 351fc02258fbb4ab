"""Memory of a re-ranking as large as ILIAS's: 1,232 lists of 1,000, every image another one."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.rerank.descriptors import to_rows

QUERIES, LENGTH, FILES = 1232, 1000, 77
COUNT, DIM = 8, 128  # few descriptors: memory is bounded by blocks, whatever their number
PROGRAM = """
import pathlib, resource, sys
import numpy as np
from etils import epath
from ilias_jax.config import RerankConfig
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.mesh import make_mesh
from ilias_jax.profiling import Timings
from ilias_jax.rerank.extract import StoredDescriptors
from ilias_jax.rerank.reranker import RERANKERS
from ilias_jax.rerank.stage import Compared, _Blocks

folder, queries, length, count = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
total = queries * length
files = EmbeddingFiles([epath.Path(path) for path in sorted(folder.glob("*.safetensors"))])
stored = StoredDescriptors(files, np.arange(total), count, {})
reranker = RERANKERS["chamfer"].create(RerankConfig(method="chamfer"), make_mesh())
compared = Compared(stored.read, stored.read, stored.image_bytes, {})
positions = np.random.default_rng(0).permutation(total).reshape(queries, length)
similarities = np.zeros(positions.shape, np.float32)
scores = _Blocks(reranker, compared, positions, similarities).score(
    epath.Path(folder / "scores"), Timings()
)
assert scores.shape == positions.shape and np.isfinite(scores).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_whole_re_ranking_takes_less_than_four_gigabytes(tmp_path):
    rng = np.random.default_rng(0)
    per_file = QUERIES * LENGTH // FILES
    for number in range(FILES):
        found = rng.random((per_file, COUNT * (3 + DIM)), np.float32)
        ids = tuple(f"{number}/{image}" for image in range(per_file))
        rows = Embeddings(ids, to_rows(found, COUNT, "float16"), np.arange(per_file), {})
        write(epath.Path(tmp_path / f"{number:03d}.safetensors"), rows)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), *map(str, (QUERIES, LENGTH, COUNT))],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peak = int(done.stdout.split()[-1])
    print(f"{peak / 1e9:.2f} GB")
    assert peak < 4e9
