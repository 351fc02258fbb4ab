"""The subcommands of `ilias-jax`, a module each: its flags, and a few lines over the library."""
