"""Runs the reference implementations on seeded weights and stores what they give for the tests.

    pip install torch==2.14.1 torchvision==0.29.1 timm open_clip_torch transformers
    python scripts/make_parity_values.py

Writes `tests/data/parity_siglip.npz` (image tower of timm, text tower of open_clip, both GELU
forms) and `tests/data/parity_canonicalize.json` (open_clip's text cleaning). With
`--big_vision FOLDER`, a checkout of google-research/big_vision, and jax, flax, einops, scipy and
ml_collections installed, its own towers run as well, at the native grid, the only one they take.

Every picture goes through the reference alone, unbatched, by the official preprocessing: longest
side by Pillow's bicubic resize, normalise, then zero padding to a multiple of the patch size.
"""

import argparse
import functools
import json
import math
import pathlib
import sys
import types

import numpy as np
import open_clip
import open_clip.model
import open_clip.tokenizer
import timm
import torch
import torchvision.transforms.functional as transforms
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import parity_weights as seeded  # noqa: E402

DATA = ROOT / "tests" / "data"
MAX_MEAN_COSINE = 0.95  # outputs of different inputs must differ, or agreement would mean nothing
Arrays = dict[str, np.ndarray]


def preprocess(picture: np.ndarray, resolution: int) -> torch.Tensor:
    """[H, W, 3] uint8 -> [1, 3, H', W'] float32, as the official extraction does."""
    height, width = picture.shape[:2]
    aspect = height / width
    new_height = max(1, int(resolution * aspect)) if aspect <= 1 else resolution
    new_width = max(1, int(resolution / aspect)) if aspect > 1 else resolution
    resized = Image.fromarray(picture).resize((new_width, new_height))
    normal = transforms.normalize(transforms.to_tensor(resized), [0.5] * 3, [0.5] * 3)
    pads = []
    for size in (new_width, new_height):  # torch pads the last axis first
        missing = math.ceil(size / seeded.PATCH) * seeded.PATCH - size
        pads += [missing // 2, missing - missing // 2]
    return torch.nn.functional.pad(normal, pads)[None]


def _qkv(block: Arrays, parts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Projections of one attention, concatenated along the outputs: weight, bias."""
    names = [f"MultiHeadDotProductAttention_0/{part}" for part in parts]
    kernels = [block[f"{name}/kernel"] for name in names]
    weight = np.concatenate([kernel.reshape(kernel.shape[0], -1).T for kernel in kernels])
    return weight, np.concatenate([block[f"{name}/bias"].reshape(-1) for name in names])


def _out(block: Arrays) -> tuple[np.ndarray, np.ndarray]:
    kernel = block["MultiHeadDotProductAttention_0/out/kernel"]
    return kernel.reshape(-1, kernel.shape[-1]).T, block["MultiHeadDotProductAttention_0/out/bias"]


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _dense(state: Arrays, name: str, weight: np.ndarray, bias: np.ndarray) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias


def _norm(state: Arrays, name: str, arrays: Arrays, theirs: str) -> None:
    _dense(state, name, arrays[f"{theirs}/scale"], arrays[f"{theirs}/bias"])


def _mlp(state: Arrays, names: tuple[str, str], arrays: Arrays) -> None:
    for i, name in enumerate(names):
        dense = f"MlpBlock_0/Dense_{i}"
        _dense(state, name, arrays[f"{dense}/kernel"].T, arrays[f"{dense}/bias"])


def timm_state(arrays: Arrays) -> Arrays:
    """The image tower by timm's names."""
    state = {"pos_embed": arrays["img/pos_embedding"]}
    kernel = arrays["img/embedding/kernel"].transpose(3, 2, 0, 1)
    _dense(state, "patch_embed.proj", kernel, arrays["img/embedding/bias"])
    for i in range(seeded.IMAGE["depth"]):
        block, name = _under(arrays, f"img/Transformer/encoderblock_{i}/"), f"blocks.{i}"
        _norm(state, f"{name}.norm1", block, "LayerNorm_0")
        _dense(state, f"{name}.attn.qkv", *_qkv(block, ("query", "key", "value")))
        _dense(state, f"{name}.attn.proj", *_out(block))
        _norm(state, f"{name}.norm2", block, "LayerNorm_1")
        _mlp(state, (f"{name}.mlp.fc1", f"{name}.mlp.fc2"), block)
    _norm(state, "norm", arrays, "img/Transformer/encoder_norm")
    head = _under(arrays, "img/MAPHead_0/")
    state["attn_pool.latent"] = head["probe"]
    _dense(state, "attn_pool.q", *_qkv(head, ("query",)))
    _dense(state, "attn_pool.kv", *_qkv(head, ("key", "value")))
    _dense(state, "attn_pool.proj", *_out(head))
    _norm(state, "attn_pool.norm", head, "LayerNorm_0")
    _mlp(state, ("attn_pool.mlp.fc1", "attn_pool.mlp.fc2"), head)
    return state


def open_clip_state(arrays: Arrays) -> Arrays:
    """The text tower by open_clip's names."""
    state = {
        "token_embedding.weight": arrays["txt/Embed_0/embedding"],
        "positional_embedding": arrays["txt/pos_embedding"][0],
    }
    for i in range(seeded.TEXT["depth"]):
        block, name = (
            _under(arrays, f"txt/Encoder_0/encoderblock_{i}/"),
            f"transformer.resblocks.{i}",
        )
        _norm(state, f"{name}.ln_1", block, "LayerNorm_0")
        weight, bias = _qkv(block, ("query", "key", "value"))
        state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"] = weight, bias
        _dense(state, f"{name}.attn.out_proj", *_out(block))
        _norm(state, f"{name}.ln_2", block, "LayerNorm_1")
        _mlp(state, (f"{name}.mlp.c_fc", f"{name}.mlp.c_proj"), block)
    _norm(state, "ln_final", arrays, "txt/Encoder_0/encoder_norm")
    _dense(state, "text_projection", arrays["txt/head/kernel"].T, arrays["txt/head/bias"])
    return state


def _load(module: torch.nn.Module, state: Arrays) -> torch.nn.Module:
    tensors = {key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}
    module.load_state_dict(tensors, strict=True)
    return module.eval()


def image_tower(arrays: Arrays, activation: str) -> torch.nn.Module:
    """timm's SigLIP entry point at the small size."""
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    module = timm.create_model(
        "vit_base_patch16_siglip_384",
        img_size=seeded.PATCH * seeded.NATIVE_GRID,
        embed_dim=seeded.IMAGE["width"],
        depth=seeded.IMAGE["depth"],
        num_heads=seeded.IMAGE["num_heads"],
        mlp_ratio=seeded.IMAGE["mlp_dim"] / seeded.IMAGE["width"],
        num_classes=0,
        dynamic_img_size=True,
        act_layer=functools.partial(torch.nn.GELU, approximate=approximate),
    )
    return _load(module, timm_state(arrays))


def text_tower(arrays: Arrays, activation: str) -> torch.nn.Module:
    """open_clip's text tower as its SigLIP configuration builds it, at the small size."""
    config = open_clip.get_model_config("ViT-B-16-SigLIP-384")["text_cfg"] | {
        "context_length": seeded.TEXT_LENGTH,
        "vocab_size": seeded.VOCAB,
        "width": seeded.TEXT["width"],
        "heads": seeded.TEXT["num_heads"],
        "layers": seeded.TEXT["depth"],
        "act_kwargs": {"approximate": "tanh"} if activation == "gelu_tanh" else None,
    }
    module = open_clip.model._build_text_tower(seeded.IMAGE["width"], config)
    return _load(module, open_clip_state(arrays))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine between the outputs [N, D] of different inputs."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float((unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean())


@torch.inference_mode()
def torch_values(arrays: Arrays) -> Arrays:
    """Outputs of timm and open_clip, unnormalised."""
    values = {}
    for activation in seeded.ACTIVATIONS:
        image, text = image_tower(arrays, activation), text_tower(arrays, activation)
        values[f"text_{activation}"] = text(torch.tensor(seeded.tokens()).long()).numpy()
        for resolution in seeded.RESOLUTIONS:
            outputs = [image(preprocess(p, resolution)).numpy()[0] for p in seeded.pictures()]
            values[f"image_{activation}_{resolution}"] = np.stack(outputs)
    return values


def native_pictures() -> list[int]:
    """Pictures that fill the native grid after padding, so that big_vision can run them."""
    side = seeded.PATCH * seeded.NATIVE_GRID
    shapes = [preprocess(picture, side).shape[2:] for picture in seeded.pictures()]
    return [i for i, shape in enumerate(shapes) if tuple(shape) == (side, side)]


def big_vision_values(arrays: Arrays, checkout: str) -> Arrays:
    """Outputs of big_vision's towers, which it gives L2-normalised."""
    sys.path.insert(0, checkout)
    import flax.training.checkpoints
    import flax.traverse_util

    # big_vision's utilities import TensorFlow to open files, which nothing here does. flax looks
    # for TensorFlow when it is imported, so it comes first.
    for name in ("tensorflow", "tensorflow.io", "tensorflow.io.gfile"):
        sys.modules.setdefault(name, types.ModuleType(name))
    from big_vision.models.proj.image_text import two_towers

    model = two_towers.Model(
        image={
            **seeded.IMAGE,
            "pool_type": "map",
            "patch_size": (seeded.PATCH, seeded.PATCH),
        },
        text_model="proj.image_text.text_transformer",
        text={**seeded.TEXT, "vocab_size": seeded.VOCAB},
        out_dim=(None, seeded.IMAGE["width"]),
        temperature_init=10.0,
        bias_init=-10.0,
    )
    side, chosen = seeded.PATCH * seeded.NATIVE_GRID, native_pictures()
    pixels = [preprocess(seeded.pictures()[i], side)[0].permute(1, 2, 0).numpy() for i in chosen]
    tree = flax.traverse_util.unflatten_dict(arrays, sep="/")
    image, text, _ = model.apply({"params": tree}, np.stack(pixels), seeded.tokens())
    return {
        "big_vision_pictures": np.asarray(chosen),
        "big_vision_image": np.asarray(image),
        "big_vision_text": np.asarray(text),
    }


def texts() -> list[str]:
    """About 200 strings that exercise the cleaning."""
    plain = ["", " ", "a photo of a CAT", "The  Eiffel\tTower\n at   night ", "snake_case__name_"]
    marks = [f"left{c}right {c} {c}{c}end{c}" for c in map(chr, range(33, 127)) if not c.isalnum()]
    escaped = [
        "Tom &amp; Jerry",
        "&amp;amp; twice",
        "&lt;b&gt;bold&lt;/b&gt;",
        "caf&eacute; &#39;x&#39;",
    ]
    escaped += [
        "&amp;lt;i&amp;gt;",
        "1 < 2 caf&amp;eacute;",
        "<b>&amp;amp;hearts;</b>",
        "&nbsp;non&nbsp;breaking",
        "&notanentity; & alone",
        "5 &#x20AC;",
    ]
    escaped += [
        "&quot;quoted&quot;",
        "&#95;under&#95;",
        "&amp;#39;",
        "&copy 2020",
        "&",
        "&;",
        "&#0;",
    ]
    words = [
        "naïve café",
        "Ünïcödé ÄÖÜ ß",
        "東京タワー",
        "Привет, Мир!",
        "مرحبا",
        "İstanbul I ı",
        "ΑΣ ΣΑΣ",
    ]
    words += [
        "fi ligature ﬁ",
        "ｆｕｌｌ ｗｉｄｔｈ",
        "e\u0301 combining",
        "emoji 😀👍🏽",
        "zero\u200bwidth",
        "soft\u00adhyphen",
    ]
    words += [
        "\u2018curly\u2019 \u201cquotes\u201d",
        "en\u2013dash em\u2014dash",
        "ellipsis\u2026",
        "¿Qué? ¡Sí!",
        "«guillemets»",
    ]
    words += [
        "№ 5",
        "½ cup",
        "x² + y³",
        "a\u00a0b\u2003c\u3000d",
        "line\u2028sep",
        "\ufeffbom",
        "㎏ ㏂",
        "Ǆ ǆ ǅ",
        "ẞ",
    ]
    broken = [text.encode().decode("cp1252", "replace") for text in words[:8] + words[13:18]]
    broken += [text.encode().decode("latin-1") for text in words[:8] + words[13:18]]
    broken += [
        "cafÃ©",
        "donâ€™t",
        "â€œquotedâ€\x9d",
        "Ã¼ber",
        "schÃƒÂ¶n",
        "\x85 \x93 \x94",
        "l\u2019Ã©tÃ©",
    ]
    control = [
        "a\x00b",
        "bell\x07",
        "\x1b[31mred\x1b[0m",
        "a\rb\r\nc\n\nd",
        "v\x0bt\x0cf",
        "\x1c\x1d\x1e\x1f|",
        "\x7f",
    ]
    lengths = ["word " * n for n in (1, 10, 64, 100)] + ["_" * 10, "." * 10, " _._ _._ ", "A" * 300]
    described = [
        f"{article} {colour} {thing}{mark} with_{pattern} (No. {i}) & more"
        for i, (article, colour, thing, mark, pattern) in enumerate(
            (a, c, t, m, p)
            for a in ("A", "The")
            for c in ("Red", "dark-BLUE", "grün")
            for t in ("Mug", "T-shirt", "café's sign")
            for m, p in (("!", "stripes"), ("...", "two__dots"), (" ", 'a "name"'))
        )
    ]
    return plain + marks + escaped + words + broken + control + lengths + described


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--big_vision", help="checkout of google-research/big_vision")
    checkout = parser.parse_args().big_vision
    arrays = seeded.weights()
    values = torch_values(arrays)
    if checkout:
        values |= big_vision_values(arrays, checkout)
    for name, vectors in values.items():
        if name != "big_vision_pictures":
            cosine = mean_cosine(vectors)
            print(f"{name}: {vectors.shape}, mean cosine {cosine:.3f}")
            assert cosine < MAX_MEAN_COSINE, f"{name}: the outputs are too much alike"
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / "parity_siglip.npz", **values)
    clean = open_clip.tokenizer.get_clean_fn("canonicalize")
    pairs = [[text, clean(text)] for text in texts()]
    document = {
        "source": f"open_clip {open_clip.__version__}, clean='canonicalize'",
        "pairs": pairs,
    }
    (DATA / "parity_canonicalize.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(pairs)} texts")


if __name__ == "__main__":
    main()
