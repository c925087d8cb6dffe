"""The rigor card: questions and their evidence."""
