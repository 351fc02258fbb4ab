"""A model's published files: those that are missing are downloaded."""

from collections.abc import Sequence

from ilias_jax.config import ModelConfig
from ilias_jax.download import RetryPolicy, Say
from ilias_jax.errors import UserError
from ilias_jax.models import hub
from ilias_jax.towers.files import WantedFile, find_files


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

    def bring(wanted: Sequence[WantedFile]) -> None:
        if not (download or hub.is_offline()):
            return
        published = {file.path: file.published for file in wanted if file.published is not None}
        failures = hub.bring(published, policy, say)
        if failures:
            problems = [
                file.problem(failures[file.path]) for file in wanted if file.path in failures
            ]
            raise UserError("\n".join(problems))

    find_files(config, bring)
