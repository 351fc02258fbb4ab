"""The files that the official toolkit writes and reads: features, rankings, lists of ids."""
