"""Makes tests/data/official_values.json: what the official evaluator says of `official_cases`.

    python tests/reference/make_official_values.py CHECKOUT

CHECKOUT is a copy of https://github.com/ilias-vrg/ilias (the values in the repository are of commit
e81029e, with scikit-learn 1.9.1 and numpy 2.4). Its requirements must be installed; none of
ilias_jax are. The official evaluator is run as it is, as a program, once for each case; it looks
for the taxonomy below the working directory, so that is the folder of the case.
"""

import json
import pathlib
import pickle
import subprocess
import sys
import tempfile
from typing import Any

TESTS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import official_cases  # noqa: E402

OUTPUT = TESTS / "data" / "official_values.json"


def plain(value: Any) -> Any:
    """Numbers and lists of Python, so that JSON can hold them."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value if isinstance(value, str) else value.tolist()


def official_values(checkout: pathlib.Path, folder: pathlib.Path, case: Any) -> dict[str, Any]:
    """The report of the official evaluator, and the digest of what it was given."""
    path, digest = official_cases.write_lists(case, folder)
    result = folder / "result.pkl"
    program = checkout / "evaluation" / "evaluate.py"
    words = ["--similarity_file", path, "--dataset_dir", ".", "--result_file", result]
    command = [sys.executable, program, *words, "--k", str(case.k)]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    report = plain(pickle.loads(result.read_bytes()))
    print(f"{case.name:<28} mAP@{case.k:<5} {report['map']:.4f}")
    return {"sha256": digest, **report}


def main() -> None:
    """Evaluates all cases and writes the file."""
    checkout = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "world"
        official_cases.write_ids(folder)
        values = {
            case.name: official_values(checkout, folder, case) for case in official_cases.CASES
        }
    OUTPUT.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
