"""`ilias-jax download`: brings the official data, verified."""

import argparse
import pathlib

from ilias_jax.errors import UserError

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
    """Defines the command and its flags."""
    parser = commands.add_parser(
        "download",
        help="fetch the official data: resumes, verifies",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, help="folder that receives the official layout")
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
    """Fetches what is missing, or says what would be fetched."""
    from ilias_jax.download import fetch, summary
    from ilias_jax.download.catalogue import Request, Servers
    from ilias_jax.download.retry import Patience

    if "://" in arguments.output:
        raise UserError(f"--output {arguments.output} must be a folder of this machine")
    root = pathlib.Path(arguments.output)
    if root.exists() and not root.is_dir():
        raise UserError(f"--output {root} is a file; name a folder")
    request = Request(arguments.source, arguments.parts, arguments.tars, arguments.adapters)
    names = ("base_url", "huggingface_url", "taxonomy_url")
    given = {name: getattr(arguments, name) for name in names}
    servers = Servers(**{name: url for name, url in given.items() if url is not None})
    patience = Patience(retries=arguments.retries, read_timeout=arguments.timeout)
    task = (root, request, servers, patience, arguments.parallel)
    try:
        if arguments.dry_run:
            summary.dry_run(*task)
            return
        outcome = fetch.download(*task)
    except KeyboardInterrupt as error:
        raise UserError("interrupted; run the same command again to go on from here") from error
    for line in summary.summary_lines(root, outcome):
        print(line)
