"""`ilias-jax models`."""

import pathlib

import pytest

from ilias_jax import cli
from ilias_jax.metrics.published import load_parity
from ilias_jax.models.registry.registry import VARIANTS


def test_models_prints_every_row(capsys):
    cli.main(["models"])
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert all(name in lines for name in VARIANTS)
    name = "vit_giantopt_patch16_siglip_384.v2_webli"
    assert lines[name].split() == [
        name,
        "1163.7",
        "708.2",
        "384",
        "512",
        "1536",
        *(f"{load_parity()[name, modality].error:.0e}" for modality in ("image", "text")),
        "Apache-2.0",
        "big_vision,",
        "open_clip,",
        "timm",
    ]
    assert lines["tiny"].endswith("bundled")
    # No published number is of it; all others were compared with their references.
    assert [name for name, line in lines.items() if "unproven" in line] == ["tiny"]
    assert lines["hier_dino_vits16_sop"].endswith("on request")


def test_models_describes_one(capsys):
    cli.main(["models", "eva02_large_patch14_clip_336.merged2b"])
    text = capsys.readouterr().out
    for part in (
        "image tower: width 1024, 24 blocks, 16 heads, MLP 2730; activation silu as trained",
        "text tower: width 768, 12 blocks",
        "trained at 336, tested at 512",
        "weights open_clip: https://huggingface.co/timm/eva02_large_patch14_clip_336.merged2b_s6b",
        "weights of the text tower: https://huggingface.co/timm/eva02_large_patch14_clip_224",
        "licence: MIT",
        "published mAP@1000: image to image, full, as it is: ",
    ):
        assert part in text, text
    with pytest.raises(SystemExit):
        cli.main(["models", "eva02_large_patch14_clip_335.merged2b"])
    assert "did you mean eva02_large_patch14_clip_336.merged2b?" in capsys.readouterr().err


def test_models_downloads_a_models_files(capsys):
    """There is no network in tests, so that the answer is what to do by hand."""
    name = "naflexvit_base_patch16_siglip.v2_webli"
    with pytest.raises(SystemExit):
        cli.main(["models", "--download", name, "--weights", "timm", "--towers", "image"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model.checkpoint: /nonexistent/ilias_jax/huggingface.co/timm/")
    assert "could not be downloaded (ILIAS_JAX_OFFLINE is set)" in line
    with pytest.raises(SystemExit):
        cli.main(["models", "--download", name, "--weights", "timm"])
    error = capsys.readouterr().err
    assert "model.weights='timm' is a file of the image tower alone" in error
    cli.main(["models", "--download", "tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert [pathlib.Path(line).name for line in lines] == ["checkpoint.npz", "tokenizer.model"]
