"""Moved to ilias_jax.dataset.reader."""

from ilias_jax.dataset.reader import ChosenRecords as ChosenRecords
