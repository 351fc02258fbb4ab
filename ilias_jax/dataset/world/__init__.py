"""The miniature world: a deterministic, rendered dataset in the official ILIAS layout."""
