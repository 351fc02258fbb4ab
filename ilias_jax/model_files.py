"""A model's published files: those that are missing are downloaded."""

import functools

from ilias_jax.config import ModelConfig
from ilias_jax.download import RetryPolicy, Say
from ilias_jax.models import hub
from ilias_jax.towers.files import find_files


def bring_model_files(
    config: ModelConfig, download: bool = True, policy: RetryPolicy = hub.POLICY, say: Say = print
) -> None:
    """Sees to a model's files: published ones that are not there are downloaded.

    Args:
        config: of the model.
        download: False to look only for files that cannot be downloaded, for a run that stops for
            another reason anyway.
        policy: retries and time limits.
        say: is called with lines for the user.

    Raises:
        UserError: the model is unknown or files cannot be had: each is named with its address and
            the place where it belongs.
    """
    find_files(config, functools.partial(hub.bring, dry_run=not download, policy=policy, say=say))
