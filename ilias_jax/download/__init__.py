"""Fetches the official data: what files there are, one file, many files."""
