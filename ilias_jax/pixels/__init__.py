"""Pixels: JPEG bytes to normalised patches, by the official preprocessing."""
