"""Search: rankings of a database for queries, by exact and approximate backends."""
