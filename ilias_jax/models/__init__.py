"""Models: their rows, parts, weights and texts."""
