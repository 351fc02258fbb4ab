"""The table of models: one row each, by family, and how a name becomes files."""
