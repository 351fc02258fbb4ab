"""Moved to ilias_jax.dataset.jobs."""

from ilias_jax.dataset.jobs import Job as Job
from ilias_jax.dataset.jobs import convert_tar as convert_tar
