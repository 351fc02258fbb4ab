"""Options that a program sets for XLA by itself, so that no user has to set XLA_FLAGS."""

import functools
import logging

import jax

# XLA hands the products of a CPU to YNNPACK by default. With a tower's many rows Eigen's are about
# a third faster.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
    """Options for `jax.jit` of a program of large matrix products.

    Args:
        platform: "cpu", "gpu" or "tpu".

    Returns:
        Name -> value; empty where there is nothing to set, or where this version of XLA does not
        know the option.
    """
    if platform != "cpu":
        return {}
    probe = jax.jit(lambda: 0, compiler_options=_CPU).lower()
    try:
        probe.compile()
    except jax.errors.JaxRuntimeError as error:
        logging.info("XLA's own choice of matrix products: %s", str(error).splitlines()[0])
        return {}
    return _CPU
