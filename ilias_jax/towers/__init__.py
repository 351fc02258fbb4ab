"""Towers: networks that turn images and texts into embeddings, their table and weight formats."""
