"""A small database in the official toolkit's files, from seeds, for it and for ours to search.

numpy and h5py alone: the script that runs the toolkit on these files imports this module too.
"""

import json
import pathlib

import h5py
import numpy as np

OBJECTS = ("lamp_000", "mug_001", "clock_002")
DIM, ADAPTED_DIM = 16, 8
NUM_DISTRACTORS = (13, 1, 26)  # a file each
VALUES = pathlib.Path(__file__).parent / "data" / "official_search.json"


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def ids() -> dict[str, list[str]]:
    """Ids by file stem; positives and queries are sorted, as the toolkit writes them."""
    tars = [f"yfcc_{number:03d}.tar" for number in range(len(NUM_DISTRACTORS))]
    return {
        "image_queries": [f"{o}/query/Q{i:03d}_{j:02d}.jpg" for i, o in _objects() for j in (0, 1)],
        "positives": [f"{o}/pos/P{i:03d}_{j:02d}.jpg" for i, o in _objects() for j in range(i + 2)],
        **{
            f"distractors_{number:05d}": [f"{tar}/{number:02d}{j:04x}" for j in range(count)]
            for number, (tar, count) in enumerate(zip(tars, NUM_DISTRACTORS, strict=True))
        },
    }


def _objects() -> list[tuple[int, str]]:
    return sorted(((int(name[-3:]), name) for name in OBJECTS), key=lambda pair: pair[1])


def vectors() -> dict[str, np.ndarray]:
    """[N, 16] float16 by file stem; rows of one object are near each other."""
    rng = np.random.default_rng(20)
    centers = {name: rng.normal(size=DIM) for name in OBJECTS}

    def draw(names: list[str]) -> np.ndarray:
        near = np.stack([centers.get(name.split("/")[0], np.zeros(DIM)) for name in names])
        return _unit(near + rng.normal(size=near.shape))

    return {stem: draw(names) for stem, names in ids().items()}


def adapter() -> tuple[np.ndarray, np.ndarray]:
    """weight [8, 16] and bias [8], float32."""
    rng = np.random.default_rng(21)
    weight, bias = rng.normal(size=(ADAPTED_DIM, DIM)), rng.normal(size=ADAPTED_DIM)
    return weight.astype(np.float32) / 4, bias.astype(np.float32) / 4


def selected() -> list[str]:
    """Keys, without their tar, of every third distractor."""
    names = [name for stem, part in ids().items() if "distractors" in stem for name in part]
    return [name.split("/")[1] for name in names[::3]]


def write(folder: pathlib.Path) -> None:
    """Writes feature files, id files, taxonomy and the list of selected distractors."""
    for stem, names in ids().items():
        with h5py.File(folder / f"features_{stem}.hdf5", "w") as file:
            file.create_dataset("index", data=names, dtype=h5py.string_dtype("ascii"))
            rows = vectors()[stem]
            file.create_dataset("features", data=rows, compression="gzip", compression_opts=0)
    (folder / "image_ids").mkdir()
    (folder / "misc").mkdir()
    queries, positives = ids()["image_queries"], ids()["positives"]
    lines = {
        "image_query_ids": [f"{name},x" for name in queries],
        "text_query_ids": [f"{name}/query/T{i:03d}.txt" for i, name in _objects()],
        # The order of the id file is not that of the feature file.
        "positive_ids": [f"{name},0.{n + 1},{7 * n}" for n, name in enumerate(positives)][::-1],
    }
    for stem, part in lines.items():
        (folder / "image_ids" / f"{stem}.txt").write_text("\n".join(part) + "\n")
    (folder / "selected.txt").write_text("\n".join(selected()) + "\n")
    taxonomy = {"coarse": {"mid": {"fine": list(OBJECTS)}}}
    (folder / "misc" / "taxonomy.json").write_text(json.dumps(taxonomy))
