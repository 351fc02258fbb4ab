"""Where the data that ships with the code is, in a checkout or an installed package."""

import pathlib


def folder() -> pathlib.Path:
    """The folder that `data/README.md` describes."""
    installed = pathlib.Path(__file__).parent / "data"
    return installed if installed.exists() else pathlib.Path(__file__).parents[1] / "data"
