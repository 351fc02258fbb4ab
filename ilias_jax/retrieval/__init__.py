"""What the sections of the benchmark search, and with what: adapted, averaged, expanded."""
