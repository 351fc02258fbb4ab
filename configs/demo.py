"""The demo: a miniature world and the bundled tiny model, on any machine.

    python main.py --config configs/demo.py --workdir runs/demo

Cost: about a minute on two CPU cores, half of it for the world (5,570 pictures), which is generated
where it is not there yet. Expected: image-to-image mAP@1000 11.6, text-to-image 11.9.

`--config.rerank.method=chamfer` adds a minute or two and re-ranks by local descriptors of the same
model, which a bundled detector chooses. Expected: image-to-image mAP@1000 17.4 after it.
"""

import pathlib

import ml_collections

from ilias_jax.config import with_defaults

DETECTOR = pathlib.Path(__file__).parents[1] / "data" / "tiny" / "detector.npz"


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The recipe; `arg` picks another world by its seed: `configs/demo.py:8`."""
    seed = int(arg) if arg.isdecimal() else 7
    if arg not in ("", str(seed)):
        raise ValueError(f"configs/demo.py:{arg}: the part after the colon is a world's seed")
    return with_defaults(
        {
            "dataset": {
                "name": f"miniature world {seed}",
                "data_dir": f"runs/worlds/{seed}",
                "world": {
                    "seed": seed,
                    "num_objects": 100,
                    "num_image_queries": 120,
                    "num_positives": 450,
                    "num_distractors": 5000,
                    "num_tars": 10,
                },
            },
            "model": {"name": "tiny"},
            "rerank": {
                "shortlist": 400,
                "detector": str(DETECTOR),
                "resolution": 256,
                "query_descriptors": 48,
                "database_descriptors": 48,
            },
            "embed": {"canvas": 0},  # on a CPU the resize would cost as much as this small model
            "search": {"block_rows": 2048, "measure_ann_recall": True},
        }
    )
