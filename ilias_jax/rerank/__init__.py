"""Better rankings from the neighbours: query expansion and database-side averaging."""
