"""Embeddings: their files, several of them as one sequence, and the extraction that makes them."""
