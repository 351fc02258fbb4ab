"""Re-ranking: the first entries of a ranking in a new order, by local descriptors or by vectors."""
