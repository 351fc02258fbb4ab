"""The demo: a miniature world and the bundled tiny model, on any machine.

    python main.py --config configs/demo.py --workdir runs/demo

Cost: about a minute on two CPU cores, half of it for the world (5,570 pictures), which is generated
where it is not there yet. Expected: image-to-image mAP@1000 11.6, text-to-image 11.9.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The recipe; `arg` picks another world by its seed: `configs/demo.py:8`."""
    seed = int(arg) if arg.isdecimal() else 7
    if arg not in ("", str(seed)):
        raise ValueError(f"configs/demo.py:{arg}: the part after the colon is a world's seed")
    return ml_collections.ConfigDict(
        {
            "dataset": {
                "name": f"miniature world {seed}",
                "data_dir": f"runs/worlds/{seed}",
                "subset": "full",
                "read_threads": 2,
                "allow": "",
                "world": {
                    "seed": seed,
                    "num_objects": 100,
                    "num_image_queries": 120,
                    "num_positives": 450,
                    "num_distractors": 5000,
                    "num_tars": 10,
                },
            },
            "model": {
                "name": "tiny",
                "checkpoint": "",
                "tokenizer": "",
                "resolution": 0,
                "activation": "gelu_tanh",
                "dtype": "float32",
                "text_cleaning": "canonicalize",
            },
            "views": {
                "scales": (1.0,),
                "rotations": (0,),
                "crop_to_box": False,
                "mask_outside_box": False,
                "boxes_of": "core",
            },
            "mesh": {"model_partitions": 1},
            "embed": {
                "batch_size_per_device": 32,
                "num_buckets": 4,
                "canvas": 0,
                "storage_dtype": "float16",
            },
            "search": {
                "backend": "exact",
                "k": 1000,
                "lists": True,
                "block_rows": 2048,
                "filter": "auto",
                "measure_ann_recall": True,
                "scann": {
                    "num_leaves": 0,
                    "num_leaves_to_search": 0,
                    "dimensions_per_block": 2,
                    "anisotropic_threshold": 0.2,
                    "reorder": 0,
                    "soar_lambda": 0.0,
                    "overretrieve_factor": 2.0,
                    "training_sample_size": 100_000,
                    "memory_gb": 8.0,
                    "sweep": (4, 8, 16, 32, 64),
                },
            },
            "adapter": {"path": ""},
            "rerank": {
                "query_expansion": 0,
                "query_expansion_alpha": 1.0,
                "database_averaging": 0,
                "database_averaging_alpha": 1.0,
                "database_averaging_gib": 8.0,
            },
            "metrics": {"num_resamples": 10_000, "seed": 0},
            "report": {"gallery_queries": 4, "gallery_results": 8},
        }
    )
