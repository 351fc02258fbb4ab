"""Preprocessing: JPEG bytes to normalised patches in batches, by the official rules."""
