"""A run folder: names of files, readers and writers, gate, costs."""
