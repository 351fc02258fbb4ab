"""What the failures of the Hugging Face hub's package mean, and what to do about them."""

import errno

from ilias_jax.download.answers import reason_of

_SITE = "https://huggingface.co"


def caught() -> tuple[type[Exception], ...]:
    """All that the package raises if a file cannot be had, and the disk's own errors."""
    from huggingface_hub import errors

    # ValueError and RuntimeError: a file that its plain transfer does not take, and its storage.
    return (OSError, ValueError, RuntimeError, errors.HTTPError, errors.EntryNotFoundError)


def reason(error: Exception, repository: str, name: str) -> str:
    """Why a file cannot be had, on one line.

    Args:
        error: one of `caught`.
        repository: owner and name.
        name: of the file in it.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return _gated(repository)
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or it is private: then set HF_TOKEN to a "
            "token of an account that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {repository} has no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable(error.__cause__ or error)
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository {repository} has no file {name}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.strerror})"
    return _unreachable(error)


def _gated(repository: str) -> str:
    """How to get at a file whose authors want to be asked."""
    from huggingface_hub import get_token

    page = f"{_SITE}/{repository}"
    curl = 'curl needs -H "Authorization: Bearer $HF_TOKEN" then'
    if get_token() is None:
        return (
            f"{repository} is gated: ask for access on {page} and set HF_TOKEN to a token of your "
            f"account ({_SITE}/settings/tokens); {curl}"
        )
    return (
        f"{repository} is gated, and the account of your token (HF_TOKEN, or that of `hf auth "
        f"login`) has no access or the token may not read gated repositories: see {page} and "
        f"{_SITE}/settings/tokens; {curl}"
    )


def _unreachable(error: BaseException) -> str:
    """What went wrong on the way."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return "the hub does not take your token (HF_TOKEN, or that of `hf auth login`)"
        return f"the hub answered {status}"
    if isinstance(error, errors.HTTPError):
        return f"no answer from the hub ({reason_of(error)})"
    return " ".join(str(error).split())
