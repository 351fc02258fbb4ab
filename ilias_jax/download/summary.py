"""What a user reads after a download, and instead of one with `--dry_run`."""

import pathlib
from collections.abc import Iterator

from ilias_jax.download import catalogue, plan, state
from ilias_jax.download.fetch import Outcome, check_parallel
from ilias_jax.download.plan import Item, Standing
from ilias_jax.download.retry import Patience, Say
from ilias_jax.download.web import Web
from ilias_jax.progress import format_bytes

_MAX_NAMES = 8


def _names(items: list[Item]) -> str:
    """Their paths, the first few of many."""
    more = f" and {len(items) - _MAX_NAMES:,} more" if len(items) > _MAX_NAMES else ""
    return ", ".join(item.file.path for item in items[:_MAX_NAMES]) + more


def summary_lines(root: pathlib.Path, outcome: Outcome) -> Iterator[str]:
    """Sums up a download that brought everything."""
    items = outcome.items
    size = format_bytes(sum(item.size or 0 for item in items))
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
    verified = sum(item.file.sha256 is not None for item in items)
    yield f"compared with a published sha256: {verified:,} of {len(items):,} files"
    unpublished = [item for item in items if item.file.sha256 is None]
    if unpublished:
        yield (
            "no sha256 is published for the following; their length was compared, .gz files were "
            f"decompressed, and their own sha256 lies in {state.STATE_FOLDER}/: "
            + _names(unpublished)
        )


def _row(item: Item) -> str:
    size = "unknown" if item.size is None else format_bytes(item.size)
    digest = "sha256" if item.file.sha256 else "no sha256"
    standing = item.standing.value
    if item.standing is Standing.PARTIAL:
        standing += f" ({format_bytes(item.have)})"
    return f"  {item.file.path:<48} {size:>10}  {digest:<9}  {item.failure or standing}"


def dry_run(
    root: pathlib.Path,
    request: catalogue.Request,
    servers: catalogue.Servers,
    patience: Patience,
    parallel: int = 4,
    say: Say = print,
) -> None:
    """Says what a download would fetch; writes nothing and reads no data.

    Raises:
        UserError: a list of files cannot be had or is hostile, or the disk is too small.
    """
    check_parallel(parallel)
    records = state.Records(root)
    with Web(patience, say) as web:
        found = catalogue.read(web, request, servers)
        items = [plan.look(root, file, records) for file in found.files]
        items = plan.ask_sizes(items, web, parallel)
    for item in items:
        say(_row(item))
    total = format_bytes(sum(item.size or 0 for item in items))
    missing = format_bytes(sum(item.missing for item in items))
    free = format_bytes(plan.free_space(root))
    say(f"{len(items):,} files, {total}; {missing} to fetch, {free} free at {root}")
    for note in found.notes:
        say(f"note: {note.format(root=root)}")
    plan.check_space(root, items)
