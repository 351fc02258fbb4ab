"""Good inputs of all commands, and the table of what is tried: a command and one thing wrong."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator

import clip_vocabulary
import finished_run
import hostile_damages as damages
import numpy as np
import official_case
import run_fixture
import small_clip
from conversion_fixture import official_copy

from ilias_jax import cli
from ilias_jax.config import WorldConfig
from ilias_jax.dataset.synthetic.generate import make_world
from ilias_jax.search.adapter import Adapter

ROOT = pathlib.Path(__file__).parents[2]
TORCH_FILES = ROOT / "tests" / "data" / "torch_files"
WORLD = WorldConfig(
    seed=3, num_objects=2, num_image_queries=2, num_positives=3, num_distractors=6, num_tars=2
)
RECIPE = """\
import dataclasses
import color_world
import ml_collections
import numpy as np
from ilias_jax.model import parameters_sha256

def build():
    model = color_world.model(np.eye(64, 12, dtype=np.float32) + 0.1, "colours")
    return dataclasses.replace(
        model,
        fingerprint={"sha256": parameters_sha256(model.parameters)},
        tokenize=lambda texts: np.array([[sum(t.encode()) % 64] for t in texts], np.int32),
    )

def get_config():
    return ml_collections.ConfigDict({
        "dataset": {"name": "colours", "data_dir": "data"},
        "model": {"name": "own", "factory": "recipe.py:build"},
        "embed": {"batch_size_per_device": 3, "num_buckets": 1, "canvas": 64},
        "search": {"k": 20, "block_rows": 64},
        "metrics": {"num_resamples": 40},
        "report": {"gallery_queries": 1, "gallery_results": 2},
    })
"""
_CHECK = "check --data_dir data --allow unchecked_distractors,missing_inventories"
_MODEL = (
    f"main.py --config {ROOT}/configs/model.py:NAME --workdir out/run "
    "--config.model.checkpoint=FILE --config.model.tokenizer=WORDS --config.dataset.data_dir=data "
    "--config.embed.batch_size_per_device=3 --config.embed.num_buckets=1 --config.search.k=20 "
    "--config.search.block_rows=64 --config.metrics.num_resamples=40 "
    "--config.report.gallery_queries=0"
)


@dataclasses.dataclass(frozen=True)
class Template:
    """A command that succeeds on the good inputs.

    Attributes:
        words: of the command line; `main.py` is a command too.
        needs: files and folders that it reads, of the folder of inputs.
        files: those that are damaged, by kind: bytes, text or JSON; names with wildcards mean each.
        free: flags that take any number, and that no number makes slow.
        paths: flags of inputs.
        output: flag of the output, "" for none.
    """

    words: str
    needs: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    free: str = ""
    paths: str = ""
    output: str = ""
    code: int = 0


TEMPLATES = {
    "evaluate": Template(
        "evaluate --similarities lists.json --ids . --taxonomy misc/taxonomy.json --output out/e.json",
        "lists.json image_ids misc",
        {"lists.json": "json", "misc/taxonomy.json": "json", "image_ids/*": "text"},
        paths="similarities ids taxonomy",
        output="output",
    ),
    "evaluate a pickle": Template(
        "evaluate --similarities lists.pkl --ids .",
        "lists.pkl image_ids misc",
        {"lists.pkl": "bytes"},
    ),
    "compare": Template(
        "compare a.json b.json --resamples 50 --permutations 9 --output out/c.json",
        "a.json b.json",
        {"a.json": "json", "b.json": "json"},
        free="seed",
        output="output",
    ),
    "check": Template(
        f"{_CHECK} --output out/k.json",
        "data",
        {"data/*/1.0.0/*.json": "json", "data/image_ids/*.txt": "text", "data/misc/*": "json"},
        free="read_threads",
        paths="data_dir",
        output="output",
    ),
    "check deeply": Template(f"{_CHECK} --deep", "data", {"data/*/1.0.0/*array_record*": "bytes"}),
    "check inventories": Template(
        "check --data_dir shards", "shards", {"shards/*/1.0.0/inventory/*": "json"}
    ),
    "search": Template(
        "search --queries features_image_queries.hdf5 --positives features_positives.hdf5 "
        "--distractors features_distractors_00000.hdf5 --selected_ids selected.txt --adapter "
        "adapter.safetensors --ids . --output out/s.json",
        "features_image_queries.hdf5 features_positives.hdf5 features_distractors_00000.hdf5 "
        "selected.txt adapter.safetensors image_ids misc",
        {"features_*.hdf5": "bytes", "selected.txt": "text", "adapter.safetensors": "bytes"},
        free="k block_rows",
        paths="queries positives distractors selected_ids adapter ids",
        output="output",
    ),
    "search embeddings": Template(
        "search --queries run/embeddings/*/image_query-*.safetensors --positives "
        "run/embeddings/*/positive-*.safetensors --output out/s.pkl",
        "run",
        {"run/embeddings/*/*.safetensors": "bytes"},
    ),
    "search with .pth": Template(
        "search --queries q.hdf5 --positives q.hdf5 --adapter adapter.pth --output out/s.json",
        "q.hdf5 adapter.pth",
        {"adapter.pth": "bytes"},
    ),
    "adapt": Template(
        "adapt --features features_positives.hdf5 --info info.csv --epochs 1 --batch_size 2 "
        "--dim 4 --output out/a.safetensors",
        "features_positives.hdf5 info.csv",
        {"features_positives.hdf5": "bytes", "info.csv": "text"},
        free="batch_size lr dim seed",
        paths="features info",
        output="output",
    ),
    "export": Template(
        "export --workdir run --output out/x",
        "run",
        {"run/rankings/*.npz": "bytes", "run/embeddings/*/*.safetensors": "bytes"},
        paths="workdir",
        output="output",
    ),
    "convert": Template(
        "convert --root root --data_dir out/d --processes 1",
        "root",
        {
            "root/yfcc100m/*.tar": "bytes",
            "root/image_ids/*": "text",
            "root/ilias_core/*/*/*": "bytes",
        },
        free="tars beam_options runner",
        paths="root core distractors",
        output="data_dir",
    ),
    "plan": Template(
        "plan --config recipe.py --output out/p.json",
        "recipe.py data",
        {"recipe.py": "text"},
        free="devices network_mb_s",
        paths="config folder",
        output="output",
        code=1,  # no model of the user's own
    ),
    "run": Template(
        "main.py --config recipe.py --workdir out/run",
        "recipe.py data",
        {
            "data/*/1.0.0/*.json": "json",
            "data/*/1.0.0/*array_record*": "bytes",
            "recipe.py": "text",
        },
        free="num_processes process_id coordinator",
        paths="config",
    ),
    "resume": Template(
        "main.py --config recipe.py --workdir run",
        "recipe.py data run",
        {
            "run/embeddings/*/*": "bytes",
            "run/rankings/*": "bytes",
            "run/report/report.json": "json",
        },
    ),
    "model": Template(
        _MODEL.replace("NAME", "small_clip").replace("FILE", "clip").replace("WORDS", "words"),
        "clip words data",
        {"clip": "bytes", "words": "bytes"},
        paths="config",
    ),
    "model from npz": Template(
        _MODEL.replace("NAME", "tiny").replace("FILE", "tiny.npz").replace("WORDS", "tiny.model"),
        "tiny.npz tiny.model data",
        {"tiny.npz": "bytes", "tiny.model": "bytes"},
    ),
    **{
        f"model from {name}": Template(
            _MODEL.replace("NAME", "small_clip").replace("FILE", name).replace("WORDS", "words"),
            f"{name} words data",
            {name: "bytes"},
            code=1,  # another model's
        )
        for name in ("checkpoint.pth", "checkpoint_stream.pth", "weights.msgpack")
    },
    "download": Template(
        "download --output out/d --retries 0 --timeout 2 --base_url http://127.0.0.1:9/ "
        "--taxonomy_url http://127.0.0.1:9/t",
        "",
        free="source parts tars adapters parallel retries timeout base_url",
        output="output",
        code=1,
    ),
    "models": Template("models tiny", "", free="download weights towers"),
    "world": Template(
        "world --output out/w --distractors 0", "", free="seed processes", output="output", code=1
    ),
}
_FIRST = ("--queries", "--config")
_WORDS = {
    **{"nothing": "", "tilde": "~", "negative": "-1", "zero": "0", "huge": "9" * 20, "nan": "nan"},
    **{"infinite": "1e400", "5000 digits": "9" * 5000, "two lines": "a\nb", "escape": "\x1b[31m"},
    **{"NUL": "a\0b", "memory": "/proc/self/mem", "endless": "/dev/zero", "long": "x" * 5000},
    **{"no user": "~no/such", "child of a file": "/etc/hostname/a", "spaces": "  ", "half": "0.5"},
    **{"surrogate": "\udcff", "scheme": "no-such://a/b", "list": "a,b", "fifo": "fifo", "dot": "."},
}
# Whoever asks for so many gets them, which takes its time.
_SLOW = {("world", "processes", "huge"), ("download", "retries", "huge")}
_OUTPUTS = (
    "",
    "~",
    "fifo",
    "out/folder",
    "file/new",
    "n" * 300,
    "INPUT",
    "link",
    "a\0b",
    "  ",
    "/proc/a",
)
_SECTIONS = {
    "dataset": "data_dir subset read_threads allow name",
    "model": "checkpoint weights towers text_checkpoint tokenizer resolution activation dtype factory "
    "factory_args attention",
    "mesh": "model_partitions",
    "views": "scales rotations crop_to_box boxes_of",
    "embed": "batch_size_per_device num_buckets canvas storage_dtype",
    "search": "backend k block_rows filter measure_ann_recall scann.memory_gb scann.num_leaves",
    "adapter": "path",
    "rerank": "query_expansion query_expansion_alpha method shortlist weights detector resolution "
    "similarity_weight temperature",
    "metrics": "seed",
    "report": "gallery_queries gallery_results",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        template: its name.
        target: file that is damaged, or flag.
        damage: name of the damage, or of the flag's value.
        words: added to the command line.
    """

    template: str
    target: str = ""
    damage: str = "good"
    words: tuple[str, ...] = ()
    disk: int | None = None

    @property
    def name(self) -> str:
        """As tests call it."""
        return f"{self.template}: {self.target or 'all'} {self.damage}"


def write(folder: pathlib.Path) -> None:
    """Writes the good inputs."""
    folder.mkdir()
    with contextlib.chdir(folder):
        official_case.write(folder)
        finished_run.write_world(folder / "data")
        (folder / "recipe.py").write_text(RECIPE)
        Adapter(*official_case.adapter()).save(folder / "adapter.safetensors")
        for seed, name in ((1, "a.json"), (2, "b.json")):
            (folder / name).write_text(json.dumps(run_fixture.document(seed)))
        ids = official_case.ids()["positives"]
        (folder / "info.csv").write_text("".join(f"{name},{len(name)},0\n" for name in ids))
        make_world(WORLD, folder / "world", num_processes=1)
        official_copy(folder / "world", folder / "root")
        shutil.copytree(folder / "world", folder / "shards")
        small_clip.write(folder / "clip", 0, small_clip.torch_names.CLIP, "both")
        (folder / "words").write_bytes(clip_vocabulary.vocabulary())
        for name in ("adapter.pth", "checkpoint.pth", "checkpoint_stream.pth"):
            shutil.copy(TORCH_FILES / name, folder)
        for name, source in (("tiny.npz", "checkpoint.npz"), ("tiny.model", "tokenizer.model")):
            shutil.copy(ROOT / "data" / "tiny" / source, folder / name)
        _write_others(folder)


def _write_others(folder: pathlib.Path) -> None:
    """What commands and libraries make of the first inputs."""
    import flax.serialization
    from etils import epath

    from ilias_jax.official.features import write_features
    from ilias_jax.search.adapter import read_adapter

    arrays = {"params": {"visual": {"kernel": np.ones((4, 4), np.float32)}}}
    (folder / "weights.msgpack").write_bytes(flax.serialization.to_bytes(arrays))
    dim = read_adapter(str(folder / "adapter.pth")).input_dim
    rows = np.eye(5, dim, dtype=np.float32)
    write_features(epath.Path(folder / "q.hdf5"), [f"o/query/{n}.jpg" for n in range(5)], rows)
    search = TEMPLATES["search"].words.split()[:5]
    for suffix in ("json", "pkl"):
        cli.main([*search, "--output", f"lists.{suffix}"])
    import main as program

    program.main(["--config", "recipe.py", "--workdir", "run"])


def cases(inputs: pathlib.Path) -> Iterator[Case]:
    """Yields the whole table; `inputs` holds the good inputs."""
    for name, template in TEMPLATES.items():
        yield Case(name)
        for pattern, kind in template.files.items():
            for path in _some(sorted(inputs.glob(pattern))):
                for damage in _damages_of(kind):
                    yield Case(name, str(path.relative_to(inputs)), damage)
        for flag, value in itertools.product(
            template.free.split() + template.paths.split(), _WORDS
        ):
            if (name, flag, value) not in _SLOW:
                yield Case(name, f"--{flag}", value, (f"--{flag}={_WORDS[value]}",))
        if template.output:
            for value in _OUTPUTS:
                if name in ("convert", "export") and value in ("INPUT", "link"):
                    continue  # new files may lie with what they are made of
                words = (f"--{template.output}={_output(template, value)}",)
                yield Case(name, f"--{template.output}", ascii(value[:9]), words)
            for size in (0, 100, 5000):
                yield Case(name, "disk", f"of {size} bytes", disk=size)
    for section, keys in _SECTIONS.items():
        for key, value in itertools.product(keys.split(), _WORDS):
            word = f"--config.{section}.{key}"
            yield Case("run", word, value, (f"{word}={_WORDS[value]}",))
    for word, text in _WORDS.items():
        yield Case("plan", "--config.search.k", word, (f"--config.search.k={text}",))


def _some(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """The first and the last two of many files of one kind."""
    return paths if len(paths) < 4 else [paths[0], *paths[-2:]]


def _damages_of(kind: str) -> list[str]:
    more = {"bytes": {}, "text": damages.TEXT, "json": {**damages.TEXT, **damages.JSON}}[kind]
    found = [*damages.BYTES, *more, *damages.PLACES]
    return [one for one in found if one != "good"]


def _output(template: Template, value: str) -> str:
    suffix = pathlib.PurePath(template.words.split(f"--{template.output} ")[1].split()[0]).suffix
    if value == "INPUT":
        return (template.needs.split() or ["file"])[0]
    return value + suffix if value in ("fifo", "out/folder", "link", "file/new") else value
