"""From a server to a score, in each published form, by the commands that the README gives."""

import hashlib
import json
import pathlib
import tarfile

import official_forms
import pytest
import tensorflow_datasets as tfds
from download_server import Fault, Server, serving
from etils import epath

from ilias_jax import benchmark, cli
from ilias_jax.config import read_words
from ilias_jax.dataset import catalogue

ROOT = pathlib.Path(__file__).parents[2]
NUM_DISTRACTORS = 40
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


def _serve_official(server: Server, world: pathlib.Path, made: pathlib.Path) -> None:
    """Puts the id files, the core tar, the YFCC tars and the taxonomy on."""
    local = {f"image_ids/{name}": world / "image_ids" / name for name in catalogue.ID_FILES}
    tars = {"ilias_core.tar": official_forms.core_tar(world, made / "ilias_core.tar")}
    tars |= {f"yfcc100m/{path.name}": path for path in sorted((world / "yfcc100m").glob("*.tar"))}
    for name, path in {**local, **tars}.items():
        server.files[f"/ilias_data/{name}"] = path.read_bytes()
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in tars.items()}
    lines = [f"{digest}  {catalogue.BASE_URL}/{name}\n" for name, digest in digests.items()]
    server.files["/ilias_data/checksums.txt"] = "".join(lines).encode()
    server.files["/taxonomy.json"] = (world / "misc" / "taxonomy.json").read_bytes()


def _serve_huggingface(server: Server, world: pathlib.Path, made: pathlib.Path) -> None:
    """Puts the three kinds of WebDataset tars on, with their list."""
    rows = []
    for path in official_forms.huggingface_tars(world, made):
        data = path.read_bytes()
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
        rows.append({"type": "file", "path": path.name, "size": len(data), "lfs": lfs})
        server.files[f"/datasets/{catalogue.DATASET}/resolve/main/{path.name}"] = data
    listing = f"/api/datasets/{catalogue.DATASET}/tree/main?recursive=true"
    server.files[listing] = b""
    server.always[listing] = Fault(body=json.dumps(rows).encode())


def _download(root: pathlib.Path, url: str, *words: str) -> None:
    servers = ["--base_url", f"{url}/ilias_data", "--taxonomy_url", f"{url}/taxonomy.json"]
    cli.main(["download", "--output", str(root), "--huggingface_url", url, *servers, *words])


@pytest.fixture(scope="module")
def server(small_world, tmp_path_factory):
    made = tmp_path_factory.mktemp("made")
    with serving() as running, pytest.MonkeyPatch.context() as patch:
        _serve_official(running, small_world, made)
        _serve_huggingface(running, small_world, made)
        taxonomy = running.files["/taxonomy.json"]
        patch.setattr(catalogue, "TAXONOMY_SHA256", hashlib.sha256(taxonomy).hexdigest())
        yield running


def _embed_and_search(
    data_dir: pathlib.Path, workdir: pathlib.Path, subset: str, allow: str
) -> dict:
    words = ["--config.model.name=tiny", "--config.model.checkpoint=", "--config.model.tokenizer="]
    words += ["--config.model.resolution=64", "--config.model.dtype=float32"]
    words += [f"--config.dataset.data_dir={data_dir}", "--config.dataset.read_threads=2"]
    words += [f"--config.dataset.allow={allow}"]
    words += ["--config.metrics.num_resamples=40", "--config.embed.num_buckets=1"]
    recipe = ROOT / "configs" / f"siglip_l384.py:{subset}"
    config = read_words("flow", [f"--config={recipe}", *words])
    benchmark.run(config, epath.Path(workdir))
    return json.loads((workdir / "report" / "report.json").read_text())


def _evaluate(workdir: pathlib.Path, data_dir: pathlib.Path, section: str) -> dict:
    exported, output = workdir / "official", workdir / f"{section}.json"
    similarities = str(exported / f"similarities_{section}.json")
    cli.main(["export", "--workdir", str(workdir), "--output", str(exported), "--rankings"])
    words = ["--similarities", similarities, "--ids", str(data_dir), "--output", str(output)]
    cli.main(["evaluate", *words, "--allow", "short_lists"])
    return json.loads(output.read_text())


def _records(data_dir: pathlib.Path, split: str) -> list[tuple[bytes, bytes, list]]:
    source = tfds.builder_from_directory(data_dir / "ilias" / "1.0.0").as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return [(row["id"], row["image"], row["boxes"].tolist()) for row in source]


@pytest.mark.parametrize(
    ("form", "subset"),
    [("core folder", "full"), ("Hugging Face", "full"), ("core tar", "mini")],
)
def test_from_download_to_score(form, subset, server, small_world, tmp_path, capsys):
    root, data_dir, workdir = tmp_path / "official", tmp_path / "data", tmp_path / "run"
    if form == "Hugging Face":
        _download(root, server.url, "--source", "huggingface", "--parts", "ids,core,yfcc")
        texts = ["--without_text"]
    else:
        _download(root, server.url, "--parts", "ids,core,yfcc")
        texts = []
    if form == "core folder":  # as the official script leaves it
        with tarfile.open(root / "ilias_core.tar") as tar:
            tar.extractall(root, filter="data")
        (root / "ilias_core.tar").unlink()
    cli.main(["convert", "--root", str(root), "--data_dir", str(data_dir), *texts])
    for split in ("image_query", "positive"):
        assert _records(data_dir, split) == _records(small_world, split)
    capsys.readouterr()
    words = ["check", "--data_dir", str(data_dir), "--subset", subset, "--deep"]
    if texts:
        with pytest.raises(SystemExit):
            cli.main(words)
        assert "problem: no_text_queries (1): not there: ilias_text/" in capsys.readouterr().out
    cli.main([*words, *(["--allow", "no_text_queries"] if texts else [])])
    assert ("allowed: no_text" if texts else "no problem found") in capsys.readouterr().out
    document = _embed_and_search(data_dir, workdir, subset, "no_text_queries" if texts else "")
    num_distractors = NUM_DISTRACTORS if subset == "full" else NUM_DISTRACTORS // 2
    assert document["dataset"]["num_distractors"] == num_distractors
    sections = ["image_to_image"] + ([] if texts else ["text_to_image"])
    assert list(document["results"]) == sections
    for section in sections:
        numbers = _evaluate(workdir, data_dir, section)
        assert numbers["map"] == pytest.approx(document["results"][section]["map@1000"], abs=1e-9)
        assert numbers["scale"] == pytest.approx(document["results"][section]["scale"], abs=1e-9)
