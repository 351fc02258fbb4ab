"""A row of the table of models with its official files, and a model as a configuration has it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.files import sha256
from ilias_jax.model import Preprocessing
from ilias_jax.models.attention import Choice
from ilias_jax.models.dual_encoder import DualEncoderConfig, ImageConfig
from ilias_jax.models.layers import Activation, TransformerSize
from ilias_jax.models.tokenizers import Cleaning

Weights = Literal["big_vision", "open_clip", "timm", "torch", "flax"]
ActivationChoice = Literal["reference", "native", "gelu_tanh", "gelu_exact", "quick_gelu"]
Triple = tuple[float, float, float]

B = TransformerSize(768, 12, 3072, 12)
L = TransformerSize(1024, 24, 4096, 16)
INCEPTION: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI: tuple[Triple, Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
_GELUS = ("gelu_tanh", "gelu_exact", "quick_gelu")


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file of a model.

    Attributes:
        url: official address, or a path below the project's `data/` for a bundled model.
        sha256: published digest in lower-case hex; None where none is published.
    """

    url: str
    sha256: str | None = None


def on_hub(repository: str, file: str) -> PublishedFile:
    """A file of a repository of the Hugging Face hub."""
    return PublishedFile(f"https://huggingface.co/{repository}/resolve/main/{file}")


@dataclasses.dataclass(frozen=True)
class WantedFile:
    """A file that a model needs.

    Attributes:
        key: of the configuration.
        path: where it is looked for.
        published: what can be downloaded to `path`; None where `path` is configured or bundled.
        remedy: what to do if it is not there.
    """

    key: str
    path: epath.Path
    published: PublishedFile | None
    remedy: str

    def problem(self, reason: str = "") -> str:
        """The message that the file is not there, and could not be downloaded for a reason."""
        why = f" and could not be downloaded ({reason})" if reason else ""
        return f"{self.key}: {self.path} does not exist{why}. {self.remedy}"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as a family of models uses it.

    Attributes:
        file: the SentencePiece model, or CLIP's byte pairs.
        size: tokens that the text towers know.
        pad_id: token that fills texts up.
        extra_pieces: pieces at the end of the file that no text contains and no tower knows.
        kind: of the file and of its tokenizer.
    """

    file: PublishedFile
    size: int
    pad_id: int
    extra_pieces: int = 0
    kind: Literal["sentencepiece", "clip"] = "sentencepiece"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        architecture: of the towers, with the activations they were trained with.
        train_resolution: pixels of a side in training.
        test_resolution: pixels of the longest side in the benchmark.
        files: the published weights by format; none for a model whose authors give them away on
            request only. "big_vision" and "open_clip" hold both towers if there are two, the others
            the image tower alone.
        vocabulary: of the texts; None without text tower.
        reference: activations that the published numbers were made with, in the image tower and in
            the text tower; None for the trained one.
        normalization: mean and standard deviation of each channel, for pixels in [0, 1].
        text_file: the text tower's weights where the published numbers have it from another file.
        licence: of the weights.
        bundled: whether weights and vocabulary ship with the code.
        open_grid: whether the position grid has the side that the file says, because its authors
            do not say it; the architecture has the likeliest one.
        note: what a user of this row must know.
    """

    architecture: DualEncoderConfig
    train_resolution: int
    test_resolution: int
    files: Mapping[Weights, PublishedFile]
    vocabulary: Vocabulary | None = None
    reference: tuple[Activation | None, Activation | None] = (None, None)
    normalization: tuple[Triple, Triple] = INCEPTION
    text_file: PublishedFile | None = None
    licence: str = "Apache-2.0"
    bundled: bool = False
    open_grid: bool = False
    note: str = ""

    @property
    def towers(self) -> Literal["both", "image"]:
        """Those that the model has."""
        return "image" if self.architecture.text is None else "both"

    def architecture_with(self, choice: ActivationChoice) -> DualEncoderConfig:
        """The architecture with the activations of a choice: one of the GELUs, or by its role.

        Raises UserError if a GELU is chosen for a model that has none.
        """
        own = self.architecture
        if choice == "native":
            return own
        if choice == "reference":
            return own.with_activations(*self.reference)
        towers = {"image": own.image, "text": own.text}
        found = {name: tower.activation for name, tower in towers.items() if tower}
        changed = {name: choice for name, activation in found.items() if activation in _GELUS}
        if not changed:
            raise UserError(
                f"model.activation={choice!r}: this model has {next(iter(found.values()))} and no "
                "GELU; use 'reference' or 'native'"
            )
        return own.with_activations(changed.get("image"), changed.get("text"))


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model as a configuration asks for it, before its files are looked for.

    Attributes:
        name: in the table; `variant` is its row there.
        architecture: of the towers that run, with the activations chosen.
        preprocessing: of the images.
        dtype, attention, text_cleaning: as configured.
    """

    name: str
    variant: Variant
    architecture: DualEncoderConfig
    preprocessing: Preprocessing
    dtype: str
    attention: Choice
    text_cleaning: Cleaning


@dataclasses.dataclass(frozen=True)
class ResolvedModel(ModelSpec):
    """A model and the files it is made of, which exist.

    Attributes:
        checkpoint: the weights, of the image tower at least.
        text_checkpoint: the text tower's weights if they come from another file than `checkpoint`.
        tokenizer: the vocabulary; None for an image tower alone.
    """

    checkpoint: epath.Path
    text_checkpoint: epath.Path | None
    tokenizer: epath.Path | None

    @property
    def files(self) -> dict[str, epath.Path]:
        """The files by what they are for: "checkpoint", "text_checkpoint", "tokenizer"."""
        named = {key: getattr(self, key) for key in ("checkpoint", "text_checkpoint", "tokenizer")}
        return {key: path for key, path in named.items() if path is not None}

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The sha256 of every file in `files`; reads them all."""
        return {key: sha256(path) for key, path in self.files.items()}


def preprocessing_of(
    image: ImageConfig,
    resolution: int,
    normalization: tuple[Triple, Triple] = INCEPTION,
    max_scale: float = 1.0,
) -> Preprocessing:
    """What comes before an image tower; arguments as the attributes of `Preprocessing`."""
    return Preprocessing(
        *(resolution, image.patch_size, *normalization),
        max_scale=max_scale,
        whole=image.whole,
        min_side=image.min_side,
    )


def test_resolution(train_resolution: int) -> int:
    """The benchmark's rule: pixels of the longest side, by those of a side in training."""
    return 384 if train_resolution <= 288 else 512 if train_resolution <= 384 else 724
