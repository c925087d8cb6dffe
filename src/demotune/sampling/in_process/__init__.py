"""Sampling in this process: rows share a key-value cache, and waiting prompts take the place of finished ones."""
