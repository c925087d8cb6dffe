"""Rows of one file, in its order: JSON Lines, JSON, CSV, Parquet, gzipped or not."""
