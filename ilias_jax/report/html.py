"""The report as one self-contained HTML page: no script, no request, works from file://."""

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from ilias_jax.report import labels
from ilias_jax.report.document import section_results
from ilias_jax.report.facts_html import dataset_block, manifest_block, model_block, run_block
from ilias_jax.report.gallery import GalleryEntry
from ilias_jax.report.gallery_html import gallery_block
from ilias_jax.report.markup import Markup, join, tag
from ilias_jax.report.published_html import published_block
from ilias_jax.report.results_html import groups_block, headline_block

# The browser itself then refuses scripts and requests, should any text slip through.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(document: Mapping[str, Any], gallery: Sequence[GalleryEntry]) -> str:
    """Returns the text of `index.html` for a document that went through `to_plain`.

    Raises:
      ValueError: a result has a name that is not known, or lacks its "map@k".
    """
    results = section_results(document)
    headline = headline_block(results, document.get("dataset") or {})
    blocks = {
        "results": ("Results", join(headline, published_block(document.get("published") or {}))),
        "dataset": ("Dataset", dataset_block(document.get("dataset") or {})),
        "groups": ("Scores in detail", groups_block(results)),
        "gallery": ("Best and worst queries", gallery_block(gallery)),
        "run": ("Time and search", run_block(document)),
        "model": ("Model", model_block(document.get("model") or {})),
        "manifest": ("Manifest", manifest_block(document.get("manifest") or {})),
    }
    present = {key: block for key, block in blocks.items() if block[1]}
    sections = [
        tag("section", tag("h2", title), body, id=key) for key, (title, body) in present.items()
    ]
    links = [tag("a", title, href=f"#{key}") for key, (title, _) in present.items()]
    body = tag(
        "body",
        _header(document, tag("nav", *links, aria_label="On this page")),
        tag("main", *sections),
        tag("footer", tag("p", "Made by ilias-jax. All scores in percent.")),
    )
    return "<!DOCTYPE html>\n" + tag("html", _head(_title(document)), body, lang="en") + "\n"


def _title(document: Mapping[str, Any]) -> str:
    model, dataset = document.get("model") or {}, document.get("dataset") or {}
    return f"{model.get('name', 'unnamed model')} on {dataset.get('name', 'unnamed dataset')}"


def _head(title: str) -> Markup:
    style = importlib.resources.files("ilias_jax.report").joinpath("style.css")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", f"{title} – ILIAS report"),
        # Without it a browser asks the server for /favicon.ico.
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style.read_text(encoding="utf-8"))),
    )


def _header(document: Mapping[str, Any], nav: Markup) -> Markup:
    manifest, search = document.get("manifest") or {}, document.get("search") or {}
    facts = [str(manifest["date"])] if manifest.get("date") else []
    if manifest.get("commit"):
        facts.append(f"commit {str(manifest['commit'])[:12]}")
    if search.get("backend"):
        facts.append(f"{labels.plain(search['backend'])} search")
    spans = [tag("span", fact) for fact in facts]
    return tag(
        "header",
        tag("p", "ILIAS retrieval report", class_="eyebrow"),
        tag("h1", _title(document)),
        tag("p", *spans, class_="run-facts") if spans else None,
        join(nav),
    )
