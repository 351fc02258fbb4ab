"""The report of a run: its numbers and pictures as JSON, Markdown and one HTML page."""

from ilias_jax.report.render import write_report

__all__ = ["write_report"]
