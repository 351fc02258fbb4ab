"""SigLIP L/16 trained at 384, run at test size 512 as in the published table.

    python main.py --config configs/siglip_l384.py            # full ILIAS, 100M distractors
    python main.py --config configs/siglip_l384.py:mini       # mini-ILIAS, 5M distractors

Needs the official weights and tokenizer under `checkpoints/` and the shards under
`datasets/ilias/` (folders or `gs://` buckets; `--config.model.checkpoint=...` names others). What
is missing is named before anything starts, with the command that brings it.

Cost: about 0.5 TFLOP an image, so 50 EFLOP for the full database: 70 hours of an accelerator that
sustains 200 TFLOP/s, 3.5 hours for mini. Embeddings take 2 KiB an image: 205 GB full, 10 GB mini.

Expected (without linear adaptation): image-to-image mAP@1000 19.6 on full ILIAS (published) and
24.2 on mini (quoted elsewhere, not in the published table); text-to-image 17.0 and 20.9. With the
official adapter, `--config.adapter.path=lin_adapt_layers/vit_large_patch16_siglip_384.webli.pth`,
image-to-image 28.9 and 34.3, both published. This project has run none yet: the numbers are what to
compare with. The published runs used exact GELU (`gelu_exact`) and so does this recipe;
`--config.model.activation=gelu_tanh` runs the model as it was trained.
"""

import ml_collections


def get_config(arg: str = "full") -> ml_collections.ConfigDict:
    """The recipe; `arg` is "full" or "mini"."""
    return ml_collections.ConfigDict(
        {
            "dataset": {
                "name": "ILIAS" if arg == "full" else "mini-ILIAS",
                "data_dir": "datasets/ilias",
                "subset": arg,
                "read_threads": 16,
                "allow": "",
            },
            "model": {
                "name": "vit_large_patch16_siglip_384.webli",
                "checkpoint": "checkpoints/webli_en_l16_384_63634585.npz",
                "tokenizer": "checkpoints/c4_en.sentencepiece.model",
                "resolution": 512,
                "activation": "gelu_exact",
                "dtype": "bfloat16",
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
                "batch_size_per_device": 64,
                "num_buckets": 8,
                "canvas": 512,
                "storage_dtype": "float16",
            },
            "search": {
                "backend": "exact",
                "k": 1000,
                "lists": True,
                "block_rows": 65536,
                "filter": "auto",
                "measure_ann_recall": False,
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
                    "sweep": (),
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
