"""The dataset: official layout and ids, ArrayRecord shards, the reader and the miniature world."""
