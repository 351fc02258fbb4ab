"""The report stage: numbers and pictures in, `report.json`, `report.md` and `index.html` out."""

from ilias_jax.report.gallery import GalleryEntry, GalleryResult, Picture
from ilias_jax.report.write import write_report

__all__ = ["GalleryEntry", "GalleryResult", "Picture", "write_report"]
