"""A model's files: which row, where they are, and what is known of where they came from.

Files that nobody configures are the published ones. They lie in a cache folder below the host and
path of their address; who calls `find_files` may give it a function that downloads them there.
"""

import dataclasses
from collections.abc import Callable, Sequence

from etils import epath

from ilias_jax import bundled as bundled_data
from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.models.hub import (  # moved there
    CACHE_VARIABLE,
    Origin,
    cache_folder,
    cached_path,
    record_origin,
    verified_origin,
)
from ilias_jax.towers.choice import check_towers, choose_weights
from ilias_jax.towers.variant import PublishedFile, Variant
from ilias_jax.towers.variants import find_variant

__all__ = [
    "CACHE_VARIABLE",
    "Bring",
    "ModelFiles",
    "Origin",
    "WantedFile",
    "cache_folder",
    "cached_path",
    "find_files",
    "record_origin",
    "verified_origin",
    "wanted_files",
]


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
        """The message for a file that is not there."""
        why = f" and could not be downloaded ({reason})" if reason else ""
        return f"{self.key}: {self.path} does not exist{why}. {self.remedy}"


# Downloads files; raises UserError with the `problem` of each that cannot be had.
Bring = Callable[[Sequence[WantedFile]], None]


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        variant: the table's row.
        checkpoint: the weights, of the image tower at least unless the text tower runs alone.
        text_checkpoint: the weights of the text tower; None for an image tower alone.
        tokenizer: the vocabulary; None for an image tower alone.
    """

    variant: Variant
    checkpoint: epath.Path
    text_checkpoint: epath.Path | None
    tokenizer: epath.Path | None

    def paths(self) -> list[epath.Path]:
        """All of them, each once."""
        named = (self.checkpoint, self.text_checkpoint, self.tokenizer)
        return list(dict.fromkeys(path for path in named if path is not None))


def _wanted(
    key: str, configured: str, published: PublishedFile | None, bundled: bool
) -> WantedFile:
    """The configured file, else the bundled one, else the published one in the cache."""
    if published is None:
        return WantedFile(key, epath.Path(configured), None, "Give the path of a file that does")
    if bundled:
        path = epath.Path(configured or bundled_data.folder() / published.url)
        return WantedFile(
            key, path, None, f"The bundled one is data/{published.url} of the checkout"
        )
    path = epath.Path(configured) if configured else cached_path(published)
    remedy = f"Get it: curl --create-dirs -Lo {path} {published.url}"
    return WantedFile(key, path, None if configured else published, remedy)


def wanted_files(config: ModelConfig) -> list[WantedFile]:
    """The files of a model, of the towers that run.

    Raises:
        UserError: the model is unknown or has no such weights or towers.
    """
    variant = check_towers(config)
    bundled = variant.bundled
    own = None if config.checkpoint else variant.text_file
    files = []
    if config.towers != "text" or not (config.text_checkpoint or own):
        published = choose_weights(config, variant)
        files.append(_wanted("model.checkpoint", config.checkpoint, published, bundled))
    if config.towers == "image":
        return files
    if config.text_checkpoint or own is not None:
        files.append(_wanted("model.text_checkpoint", config.text_checkpoint, own, False))
    assert variant.vocabulary is not None  # a row with a text tower has one
    vocabulary = variant.vocabulary.file
    return [*files, _wanted("model.tokenizer", config.tokenizer, vocabulary, bundled)]


def find_files(config: ModelConfig, bring: Bring | None = None) -> ModelFiles:
    """Finds a model's files without reading them.

    Args:
        config: of the model.
        bring: downloads published files that are missing.

    Raises:
        UserError: the model is unknown or a file is missing; all missing ones in one message, each
            with the command that brings it.
    """
    files = wanted_files(config)
    missing = [file for file in files if not file.path.exists()]
    problems = [file.problem() for file in missing if bring is None or file.published is None]
    published = [file for file in missing if file.published is not None]
    if bring is not None and published:
        try:
            bring(published)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    paths = {file.key: file.path for file in files}
    text = paths.get("model.text_checkpoint")
    checkpoint = paths.get("model.checkpoint") or text
    assert checkpoint is not None  # one of the two is wanted always
    if config.towers != "image":
        text = text or checkpoint
    return ModelFiles(find_variant(config.name), checkpoint, text, paths.get("model.tokenizer"))
