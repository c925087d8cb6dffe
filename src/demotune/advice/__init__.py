"""What is worth running next with a model and its demonstrations: measured in minutes, then a table of rules."""
