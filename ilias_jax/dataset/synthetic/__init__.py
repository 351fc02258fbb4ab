"""A deterministic, rendered miniature dataset in the official ILIAS layout."""
