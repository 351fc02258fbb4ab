"""What a user sees who runs main.py: one message, exit code 1, no traceback."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from ilias_jax import front

ROOT = pathlib.Path(__file__).parents[1]


def _run(folder, *words: str) -> subprocess.CompletedProcess:
    """Runs main.py from `folder`, where there are neither weights nor data."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
        check=False,
    )


SIGLIP = f"--config={ROOT}/configs/siglip_l384.py"
CACHE = f"{os.environ['ILIAS_JAX_CACHE']}/storage.googleapis.com/"
DEMO = f"--config={ROOT}/configs/demo.py"
CASES = {
    "no weights and no data": (
        [SIGLIP],
        [
            f"model.checkpoint: {CACHE}big_vision/siglip/webli_en_l16_384_63634585.npz does not exis",
            "-Lo " + CACHE + "big_vision/siglip/webli_en_l16_384_63634585.npz https://storage.goog",
            f"model.tokenizer: {CACHE}t5-data/vocabs/cc_en.32000/sentencepiece.model does not exist",
            "dataset.data_dir: image shards are looked for in datasets/ilias/ilias/1.0.0",
        ],
    ),
    "misspelt key": ([DEMO, "--config.search.kk=5"], ["search.kk", "did you mean search.k?"]),
    "misspelt section": ([DEMO, "--config.serach.k=5"], ["serach.k", "did you mean search.k?"]),
    "misspelt flag": ([DEMO, "--wrkdir=x"], ["wrkdir", "workdir"]),
    "no number": ([DEMO, "--config.search.k=abc"], ["--config.search.k=abc", "'abc'"]),
    "out of range": ([DEMO, "--config.search.k=0"], ["search.k=0", ">= 1"]),
    "a scale that is none": (
        [DEMO, "--config.views.scales=0.707,big"],
        ["views.scales", "'0.707,big'", "not float"],
    ),
    "a rotation between": (
        [DEMO, "--config.views.rotations=0,45"],
        ["views.rotations=(0, 45)", "some of 0, 90, 180, 270"],
    ),
    "unknown model": ([DEMO, "--config.model.name=tinny"], ["tinny", "did you mean tiny?"]),
    "no such recipe": (["--config=nowhere.py"], ["nowhere.py cannot be read", "configs/demo.py"]),
    "no recipe": ([], ["--config is missing", "configs/demo.py"]),
    "bad argument": ([DEMO + ":x"], ["demo.py:x", "a world's seed"]),
    "bad subset": ([SIGLIP + ":min"], ["dataset.subset='min'", "'full', 'mini'"]),
    "stray word": ([DEMO, "config.search.k=5"], ["unknown arguments: config.search.k=5", "--"]),
    "no coordinator": ([DEMO, "--distributed"], ["--distributed: ", "--coordinator"]),
    "workdir": ([DEMO, "--workdir=/proc/none"], ["/proc/none cannot be written", "--workdir"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_gives_one_message_and_no_traceback(tmp_path, case):
    words, expected = CASES[case]
    result = _run(tmp_path, *words)
    assert result.returncode == 1
    for part in expected:
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")


def test_an_empty_shard_folder_is_named(tmp_path):
    (tmp_path / "empty" / "ilias" / "1.0.0").mkdir(parents=True)
    result = _run(tmp_path, DEMO, "--config.dataset.data_dir=empty")
    assert result.returncode == 1
    assert "empty/ilias/1.0.0, which has no dataset_info.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_the_flags(tmp_path):
    result = _run(tmp_path, "--help")
    assert "--workdir" in result.stdout
    assert "--config" in result.stdout + result.stderr


def test_the_summary_says_what_the_database_lacks():
    counts = {"num_positives": 4715, "num_distractors": 4_999_998, "num_rejected": 1}
    document = {"results": {}, "dataset": {**counts, "num_missing_distractors": 1}}
    (line, _) = front.summarize(document, "w").splitlines()
    assert line == "database: 4,715 positives, 4,999,998 distractors, 1 rejected, 1 missing"


def test_compiled_programs_are_kept_beside_the_model_files_but_not_on_cpus(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        front.keep_compilations()
        assert jax.config.jax_compilation_cache_dir == before
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        front.keep_compilations()
        folder = os.environ["ILIAS_JAX_CACHE"] + "/compilations"
        assert jax.config.jax_compilation_cache_dir == folder
        jax.config.update("jax_compilation_cache_dir", before)
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
        front.keep_compilations()
        assert jax.config.jax_compilation_cache_dir == before
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
