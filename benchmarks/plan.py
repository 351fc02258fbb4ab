"""The demo as planned beside the demo as run: seconds of every stage and the peak of memory.

    python benchmarks/plan.py [--rounds 3] [--calibrate_seconds 20] [--output RESULT.json]

Every round measures the machine (`ilias-jax plan`) and then runs the whole demo in a new folder,
its world included, each as a process of its own. Seconds are without compilation on both sides.
The ratio is planned over real, the median of the rounds' ratios.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]
# Stage of the plan -> how the names of the report's stages begin.
STAGES = {
    "generate": ("generate_world",),
    "embed": ("embed_",),
    "search exact": ("open_exact", "search_image_to_image_exact", "search_text_to_image_exact"),
    "search scann": ("open_scann", "search_image_to_image_scann", "search_text_to_image_scann"),
    "metrics": ("metrics_",),
}


def run_python(words: Sequence[str]) -> int:
    """Runs Python from the checkout; gives the peak resident bytes of the largest process."""
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return usage.ru_maxrss * 1024


def planned(folder: pathlib.Path, seconds: float) -> dict[str, float]:
    """Seconds by stage and peak bytes as planned for the demo."""
    output = folder / "plan.json"
    words = ["--config=configs/demo.py", f"--folder={folder}", f"--calibrate_seconds={seconds}"]
    run_python(["-m", "ilias_jax.cli", "plan", *words, f"--output={output}"])
    demo = json.loads(output.read_text())["plans"]["demo"]
    found = {name: demo["stages"][name]["seconds"] for name in STAGES}
    # Drawing ends with the conversion of its tars, which the report does not time apart.
    found["generate"] += demo["stages"]["convert"]["seconds"]
    peak = max(
        stage["host"] + stage["device"]
        for name, stage in demo["stages"].items()
        if stage["in_run"] and name not in ("generate", "convert")  # several processes
    )
    return {**found, "peak bytes": peak}


def real(folder: pathlib.Path) -> dict[str, float]:
    """The same of a run of the demo."""
    words = [f"--config.dataset.data_dir={folder / 'world'}", f"--workdir={folder / 'run'}"]
    peak = run_python(["main.py", "--config=configs/demo.py", *words])
    report = json.loads((folder / "run" / "report" / "report.json").read_text())
    steady = {name: stage["steady_s"] for name, stage in report["timings"]["stages"].items()}
    found = {stage: sum_of(steady, starts) for stage, starts in STAGES.items()}
    return {**found, "peak bytes": peak}


def sum_of(seconds: Mapping[str, float], starts: Sequence[str]) -> float:
    """Seconds of all stages whose names begin so; every beginning must be there."""
    for start in starts:
        if not any(name.startswith(start) for name in seconds):
            raise SystemExit(f"the report has no stage {start}*, but {', '.join(seconds)}")
    return sum(value for name, value in seconds.items() if name.startswith(tuple(starts)))


def main() -> None:
    """Plans and runs in turn, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="plans and runs in turn")
    parser.add_argument("--calibrate_seconds", type=float, default=20.0, help="of every plan")
    parser.add_argument("--folder", help="for temporary files; the system's by default")
    parser.add_argument("--output", help="JSON file of the results")
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
            folder, start = pathlib.Path(temporary), time.perf_counter()
            guess = planned(folder, arguments.calibrate_seconds)
            middle = time.perf_counter()
            rounds.append({"planned": guess, "real": real(folder)})
            print(
                f"round {number + 1}: planned in {middle - start:.0f} s, "
                f"run in {time.perf_counter() - middle:.0f} s",
                flush=True,
            )
    print(f"{'':14}{'planned':>12}{'real':>12}{'ratio':>8}")
    rows = {}
    for name in (*STAGES, "peak bytes"):
        pair = [
            statistics.median(one[side][name] for one in rounds) for side in ("planned", "real")
        ]
        ratio = statistics.median(one["planned"][name] / one["real"][name] for one in rounds)
        rows[name] = {"planned": pair[0], "real": pair[1], "ratio": ratio}
        label, unit = ("peak MB", 1e6) if name == "peak bytes" else (name, 1.0)
        print(f"{label:14}{pair[0] / unit:12,.2f}{pair[1] / unit:12,.2f}{ratio:8.2f}")
    result = {
        "benchmark": "plan",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "calibrate_seconds": arguments.calibrate_seconds,
        "medians": rows,
        "rounds": rounds,
    }
    print(json.dumps(result))
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
