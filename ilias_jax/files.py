"""Files: hashes, and where the data that ships with the code is."""

import hashlib
import pathlib

from etils import epath


def bundled_folder() -> pathlib.Path:
    """The folder that `data/README.md` describes, in a checkout or an installed package."""
    installed = pathlib.Path(__file__).parent / "data"
    return installed if installed.exists() else pathlib.Path(__file__).parents[1] / "data"


def sha256(path: epath.PathLike) -> str:
    """Hexadecimal sha256 of a file of any size."""
    with epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
