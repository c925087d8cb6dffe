"""Losses, objectives, trainer, phases and methods."""
