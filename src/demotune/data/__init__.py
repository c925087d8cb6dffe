"""Demonstrations from any common file, folder or hub dataset; rows that cannot be used are named, not lost."""

from demotune.data.loading import LoadedData, load_demonstrations
from demotune.data.prompts import as_prompt, read_prompt_file
from demotune.data.rows import BadRow, Reason

__all__ = ["BadRow", "LoadedData", "Reason", "as_prompt", "load_demonstrations", "read_prompt_file"]
