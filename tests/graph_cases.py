"""Every distinct network of the published rows that is a transformer and no SigLIP, and its inputs.

Numpy only, as `tests/reference/make_graph_values.py` reads it where there is no JAX. Each case has a file of
expected values, `tests/data/graphs/NAME.npz`:

    image_{A}         [N, D] float32, unnormalised outputs of N pictures with activation A
    image_trace_{A}   [N, layers, 8] float32, see `parity_summary.summarise`, of all tokens
    image_weights     [arrays, 4] float32, `graph_weights.fingerprint` of each, in their order
    layers            names of the traced layers
    layout            bytes of a JSON object: the reference's name of each array -> its shape
    epsilons          the same: name of each norm -> what it adds to the variance
    versions          of what made it

and `text_` for `image_` if the inputs are texts. A reduced case has the first blocks of the
reference and is otherwise the same.
"""

import dataclasses
import pathlib

import numpy as np
import parity_weights as seeded
from parity_cases import FULL_PICTURES

FOLDER = pathlib.Path(__file__).parent / "data" / "graphs"
REDUCED = "_reduced"
REDUCED_DEPTH = 2
NUM_TEXTS = 8
START, END = 49_406, 49_407  # the last two of the vocabulary
EXACT, TANH, QUICK = ("gelu_exact",), ("gelu_exact", "gelu_tanh"), ("gelu_exact", "quick_gelu")
# Without 3:4, as these take long.
FEW_PICTURES = ((500, 500), (640, 480), (640, 360), (90, 720), (400, 1))

Channels = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Colours:
    """Mean and standard deviation of each channel, that pixels of 0 to 1 are normalised by."""

    mean: Channels
    std: Channels


HALF = Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Colours((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Inputs of an image tower.

    Attributes:
        resolution: longest side in pixels, the test size of the row.
        patch: multiple that both sides are padded to.
        colours: how pixels are normalised.
        sizes: (width, height) of each picture.
    """

    resolution: int
    patch: int
    colours: Colours
    sizes: tuple[tuple[int, int], ...] = FULL_PICTURES

    def arrays(self) -> list[np.ndarray]:
        """[H, W, 3] uint8 each."""
        return seeded.pictures(self.sizes)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Inputs of a text tower of CLIP's vocabulary.

    Attributes:
        length: tokens of a text, its padding counted.
    """

    length: int = 77

    def tokens(self, seed: int = 3) -> np.ndarray:
        """[N, length] int32: start, words, end, zeros; the first is empty and the last full."""
        rng = np.random.default_rng(seed)
        rows = np.zeros((NUM_TEXTS, self.length), np.int32)
        counts = np.linspace(0, self.length - 2, NUM_TEXTS).astype(int)
        for row, words in zip(rows, counts, strict=True):
            row[0], row[1 : words + 1], row[words + 1] = START, rng.integers(1, START, words), END
        return rows


@dataclasses.dataclass(frozen=True)
class GraphCase:
    """A network and what it is run on.

    Attributes:
        name: of the file.
        kind: which code runs it, a key of `reference_graphs.BUILDERS`.
        row: the published row that it is built as.
        depth: blocks that run.
        inputs: pictures or texts.
        activations: of the MLPs; the first is that of the reference as it ships.
        shared: other rows with the same graph, whose weights, native grid or colours may differ.
        alias: what the code of `kind` calls it, if not `row`.
    """

    name: str
    kind: str
    row: str
    depth: int
    inputs: Pictures | Texts
    activations: tuple[str, ...] = EXACT
    shared: tuple[str, ...] = ()
    alias: str = ""

    @property
    def reference(self) -> str:
        """What the code of `kind` calls it."""
        return self.alias or self.row

    @property
    def reduced(self) -> bool:
        """Whether it has the first blocks only."""
        return self.name.endswith(REDUCED)

    @property
    def path(self) -> pathlib.Path:
        """Its file of expected values."""
        return FOLDER / f"{self.name}.npz"

    @property
    def modality(self) -> str:
        """What the names of its outputs start with."""
        return "image" if isinstance(self.inputs, Pictures) else "text"


_SMALL = Pictures(384, 16, IMAGENET)
_LARGE = Pictures(724, 14, IMAGENET, FEW_PICTURES)
_CLIP_16, _CLIP_14 = Pictures(384, 16, CLIP), Pictures(384, 14, CLIP)
_CLIP_512 = Pictures(512, 14, CLIP, FEW_PICTURES)


_PLAIN = (
    GraphCase(
        "augreg_b16",
        "timm",
        "vit_base_patch16_224.augreg_in21k",
        12,
        Pictures(384, 16, HALF),
        TANH,
        (
            "vit_base_patch16_224.augreg_in1k",
            "moco_v3_vitb",
            "udon_64-vitb_in21k_ft_in1k",
        ),
    ),
    GraphCase(
        "augreg_l16_384",
        "timm",
        "vit_large_patch16_384.augreg_in21k_ft_in1k",
        24,
        Pictures(512, 16, HALF, FEW_PICTURES),
        shared=(
            "vit_large_patch16_224.augreg_in21k",
            "vit_large_patch16_224.augreg_in21k_ft_in1k",
        ),
    ),
    GraphCase("deit3_b16", "timm", "deit3_base_patch16_224.fb_in1k", 12, _SMALL),
    GraphCase("deit3_l16", "timm", "deit3_large_patch16_224.fb_in1k", 24, _SMALL),
    GraphCase("dino_b16", "dino", "dino_vitb16", 12, _SMALL),
    GraphCase("recall_b16", "recall", "recall_512-vit_base_patch16_224_in21k", 12, _SMALL),
    GraphCase("hier_s16", "hier", "hier_dino_vits16_sop", 12, _SMALL, alias="dino_vits16"),
)
_CLIPS = (
    GraphCase(
        "clip_b16",
        "timm",
        "vit_base_patch16_clip_224.openai",
        12,
        _CLIP_16,
        QUICK,
        ("vit_base_patch16_clip_224.metaclip_2pt5b",),
    ),
    GraphCase(
        "clip_b16_features",
        "timm_features",
        "udon_64-vitb_clip_openai",
        12,
        _CLIP_16,
        ("quick_gelu", "gelu_exact"),
        ("uscrr_64-vit_base_patch16_clip_224.openai",),
        "vit_base_patch16_clip_quickgelu_224.openai",
    ),
    GraphCase(
        "clip_l14",
        "timm",
        "vit_large_patch14_clip_224.openai",
        24,
        _CLIP_14,
        QUICK,
        (
            "vit_large_patch14_clip_224.laion2b",
            "vit_large_patch14_clip_224.metaclip_2pt5b",
        ),
    ),
    GraphCase("clip_l14_336", "timm", "vit_large_patch14_clip_336.openai", 24, _CLIP_512, QUICK),
)
_ROTARY = (
    GraphCase("eva02_b14", "timm", "eva02_base_patch14_224.mim_in22k", 12, _CLIP_14, ("silu",)),
    GraphCase(
        "eva02_l14",
        "timm",
        "eva02_large_patch14_224.mim_in22k",
        24,
        _CLIP_14,
        ("silu",),
        ("eva02_large_patch14_224.mim_m38m",),
    ),
    GraphCase(
        "eva02_clip_b16", "timm", "eva02_base_patch16_clip_224.merged2b", 12, _CLIP_16, ("silu",)
    ),
    GraphCase(
        "eva02_clip_l14_336",
        "timm",
        "eva02_large_patch14_clip_336.merged2b",
        24,
        _CLIP_512,
        ("silu",),
    ),
    GraphCase("pe_b16", "timm", "vit_pe_core_base_patch16_224.fb", 12, Pictures(384, 16, HALF)),
    GraphCase(
        "pe_l14_336",
        "timm",
        "vit_pe_core_large_patch14_336.fb",
        24,
        Pictures(512, 14, HALF, FEW_PICTURES),
    ),
    GraphCase(
        "dinov3_b16", "dinov3", "dinov3_vitb16", 12, Pictures(768, 16, IMAGENET, FEW_PICTURES)
    ),
    GraphCase(
        "dinov3_l16", "dinov3", "dinov3_vitl16", 24, Pictures(768, 16, IMAGENET, FEW_PICTURES)
    ),
)
_DINOV2 = (
    GraphCase("dinov2_b14", "dinov2", "dinov2_vitb14", 12, _LARGE),
    GraphCase("dinov2_b14_reg", "dinov2", "dinov2_vitb14_reg", 12, _LARGE),
    GraphCase("dinov2_l14", "dinov2", "dinov2_vitl14", 24, _LARGE),
    GraphCase("dinov2_l14_reg", "dinov2", "dinov2_vitl14_reg", 24, _LARGE),
    GraphCase("unic_l14", "unic", "unic_l", 24, Pictures(512, 14, IMAGENET, FEW_PICTURES)),
)
_UNICOM = (
    GraphCase(
        "unicom_b16",
        "unicom",
        "unicom_vit_base_patch16_224",
        12,
        _CLIP_16,
        ("relu6",),
        ("unicom_vit_base_patch16_sop",),
    ),
    GraphCase(
        "unicom_b16_gldv2",
        "unicom",
        "unicom_vit_base_patch16_gldv2",
        12,
        Pictures(724, 16, CLIP, FEW_PICTURES),
        ("relu6",),
    ),
    GraphCase("unicom_l14", "unicom", "unicom_vit_large_patch14_224", 24, _CLIP_14, ("relu6",)),
    GraphCase(
        "unicom_l14_336", "unicom", "unicom_vit_large_patch14_336", 24, _CLIP_512, ("relu6",)
    ),
)
_TEXTS = (
    GraphCase(
        "clip_b_text",
        "open_clip",
        "vit_base_patch16_clip_224.openai",
        12,
        Texts(),
        QUICK,
        ("vit_base_patch16_clip_224.metaclip_2pt5b",),
        "ViT-B-16",
    ),
    GraphCase(
        "clip_l_text",
        "open_clip",
        "vit_large_patch14_clip_224.openai",
        12,
        Texts(),
        QUICK,
        (
            "vit_large_patch14_clip_336.openai",
            "vit_large_patch14_clip_224.laion2b",
            "vit_large_patch14_clip_224.metaclip_2pt5b",
        ),
        "ViT-L-14",
    ),
    GraphCase("rn50_text", "open_clip", "RN50.openai", 12, Texts(), QUICK, alias="RN50"),
    GraphCase(
        "convnext_b_text",
        "open_clip",
        "convnext_base.clip_laion2b_augreg",
        12,
        Texts(),
        alias="convnext_base_w",
    ),
    GraphCase(
        "convnext_l_text",
        "open_clip",
        "convnext_large_mlp.clip_laion2b_ft_soup_320",
        16,
        Texts(),
        alias="convnext_large_d_320",
    ),
    # The graphs of CLIP B and L under other names.
    GraphCase(
        "eva02_b_text",
        "open_clip",
        "eva02_base_patch16_clip_224.merged2b",
        12,
        Texts(),
        alias="EVA02-B-16",
    ),
    GraphCase(
        "eva02_l_text",
        "open_clip",
        "eva02_large_patch14_clip_336.merged2b",
        12,
        Texts(),
        alias="EVA02-L-14",
    ),
    GraphCase(
        "pe_text",
        "open_clip",
        "vit_pe_core_base_patch16_224.fb",
        24,
        Texts(32),
        shared=("vit_pe_core_large_patch14_336.fb",),
        alias="PE-Core-B-16",
    ),
)


def _forms(case: GraphCase) -> tuple[GraphCase, GraphCase]:
    """All of it, with the activation that ships, and its first blocks, with every activation."""
    return (
        dataclasses.replace(case, activations=case.activations[:1]),
        dataclasses.replace(case, name=case.name + REDUCED, depth=REDUCED_DEPTH),
    )


_ALL = (*_PLAIN, *_CLIPS, *_ROTARY, *_DINOV2, *_UNICOM, *_TEXTS)
GRAPHS: dict[str, GraphCase] = {form.name: form for case in _ALL for form in _forms(case)}
