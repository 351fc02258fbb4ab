"""Makes tests/data/rerank/official_order.json: what the official evaluator says of re-ranked lists.

    python tests/reference/make_order_values.py --upstream FOLDER

FOLDER holds `ilias-vrg+ilias`, a copy of https://github.com/ilias-vrg/ilias at e81029e. Its
requirements must be installed; none of ilias_jax are. The lists are put into their order by plain
Python, so that the values say what order and scores of ours must come to.
"""

import argparse
import json
import pathlib
import pickle
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import official_cases  # noqa: E402
import order_cases  # noqa: E402


def main() -> None:
    """Evaluates a file of each length and writes their mAP and APs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", type=pathlib.Path, required=True)
    checkout = parser.parse_args().upstream.resolve() / "ilias-vrg+ilias"
    values = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "world"
        official_cases.write_ids(folder)
        for length in order_cases.LENGTHS:
            path, result = order_cases.write_expected(folder, length), folder / "result.pkl"
            words = ["--similarity_file", path, "--dataset_dir", ".", "--result_file", result]
            command = [sys.executable, checkout / "evaluation" / "evaluate.py", *words]
            subprocess.run([*command, "--k", "1000"], check=True, cwd=folder)
            report = pickle.loads(result.read_bytes())
            aps = {
                str(q): float(ap) for q, ap in zip(report["queries"], report["aps"], strict=True)
            }
            values[str(length)] = {"map": float(report["map"]), "aps": aps}
    order_cases.VALUES.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
