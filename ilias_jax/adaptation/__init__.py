"""Training of the linear adapter by the recipe of ILIAS."""
