"""`ilias-jax download`: brings the official data, verified."""

import argparse
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from ilias_jax.dataset.fetch import Item, Outcome

_MAX_NAMES = 8

_EPILOG = """\
parts:
  ids       image_ids/ (five id files) and misc/taxonomy.json
  core      queries and positives: ilias_core.tar, or two tars of the Hugging Face copy
  yfcc      distractors: 1,000 tars of 100,000 images (6.3 TB) from the official server, or the
            45 tars of mini-ILIAS (5 million images) from Hugging Face; choose some with --tars
  adapters  official linear adaptation layers, named with --adapters

examples:
  ilias-jax download --output data/ilias --dry_run
  ilias-jax download --output data/ilias --tars 0:50
  ilias-jax download --output data/ilias --parts yfcc --tars 50:100,999
  ilias-jax download --output data/ilias --source huggingface --parts ids,core,yfcc
  ilias-jax download --output data/ilias --adapters vit_large_patch16_siglip_384.webli

The command may be stopped at any time. Run again, it resumes what is partly there and never
fetches again what it has verified.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "download",
        help="fetch the official data: resumes, verifies",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=path_flag, required=True, help="folder that receives the official layout")
    add("--source", default="official", help="of the tars: official (default) or huggingface")
    add("--parts", type=_words, default=(), help="ids,core,yfcc,adapters; default ids,core")
    add("--tars", help="distractor tars: numbers from 0, ranges FIRST:END, names; default all")
    add("--adapters", type=_words, default=(), help="names of models, separated by commas")
    add("--parallel", type=int, default=4, help="files at the same time (4)")
    add("--retries", type=int, default=8, help="failures in a row before a file is given up (8)")
    add("--timeout", type=float, default=60.0, help="seconds without a byte that are a failure")
    add("--base_url", help="mirror of https://vrg.fel.cvut.cz/ilias_data")
    add("--huggingface_url", help="mirror of https://huggingface.co")
    add("--taxonomy_url", help="another address of the toolkit's misc/taxonomy.json")
    add("--dry_run", action="store_true", help="print files and sizes, fetch nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.dataset import catalogue, fetch
    from ilias_jax.download import RetryPolicy
    from ilias_jax.files import check_writable

    if "://" in arguments.output:
        raise UserError(f"--output {arguments.output} must be a folder of this machine")
    root = pathlib.Path(arguments.output)
    if root.exists() and not root.is_dir():
        raise UserError(f"--output {root} is a file; name a folder")
    request = catalogue.Request(
        arguments.source, arguments.parts, arguments.tars, arguments.adapters
    )
    names = ("base_url", "huggingface_url", "taxonomy_url")
    given = {name: getattr(arguments, name) for name in names}
    servers = catalogue.Servers(**{name: url for name, url in given.items() if url is not None})
    policy = RetryPolicy(retries=arguments.retries, read_timeout=arguments.timeout)
    dry_run = arguments.dry_run
    if not dry_run:
        check_writable(epath.Path(root), "--output")
    try:
        outcome = fetch.bring_dataset(
            root, request, servers, policy, arguments.parallel, dry_run=dry_run
        )
    except KeyboardInterrupt as error:
        raise UserError("interrupted; run the same command again to go on from here") from error
    for line in (_plan if dry_run else _summary)(root, outcome):
        print(line)
    if dry_run:
        fetch.check_space(root, outcome.items)


def _plan(root: pathlib.Path, outcome: "Outcome") -> Iterator[str]:
    from ilias_jax.download import free_space
    from ilias_jax.progress import format_bytes

    for item in outcome.items:
        size = "unknown" if item.size is None else format_bytes(item.size)
        digest = "sha256" if item.file.sha256 else "no sha256"
        have = f" ({format_bytes(item.have)})" if item.status.name == "PARTIAL" else ""
        standing = item.failure or item.status.value + have
        yield f"  {item.file.path:<48} {size:>10}  {digest:<9}  {standing}"
    total = format_bytes(sum(item.size or 0 for item in outcome.items))
    missing = format_bytes(sum(item.missing for item in outcome.items))
    free = format_bytes(free_space(root))
    yield f"{len(outcome.items):,} files, {total}; {missing} to fetch, {free} free at {root}"
    yield from (f"note: {note}" for note in outcome.notes)


def _names(items: "list[Item]") -> str:
    more = f" and {len(items) - _MAX_NAMES:,} more" if len(items) > _MAX_NAMES else ""
    return ", ".join(item.file.path for item in items[:_MAX_NAMES]) + more


def _summary(root: pathlib.Path, outcome: "Outcome") -> Iterator[str]:
    from ilias_jax.progress import format_bytes

    items, size = outcome.items, format_bytes(sum(item.size or 0 for item in outcome.items))
    line = f"{root}: all there, {len(items):,} of {len(items):,} files, {size}"
    if outcome.fetched:
        rate = format_bytes(outcome.num_bytes / max(outcome.seconds, 1e-9))
        line += (
            f"; {outcome.fetched:,} fetched, {format_bytes(outcome.num_bytes)} in "
            f"{outcome.seconds:,.1f} s ({rate}/s)"
        )
    yield line
    for note in sorted({item.note for item in items} - {""}):
        yield f"{note}: {_names([item for item in items if item.note == note])}"
    unpublished = [item for item in items if item.file.sha256 is None]
    verified = len(items) - len(unpublished)
    yield f"compared with a published sha256: {verified:,} of {len(items):,} files"
    if unpublished:
        yield (
            "no sha256 is published for the following; their length was compared, .gz files were "
            f"decompressed, and their own sha256 lies in .download/: {_names(unpublished)}"
        )
