"""ilias-jax: the ILIAS instance-level image retrieval benchmark in JAX."""
