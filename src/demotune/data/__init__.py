"""Demonstrations from any common file, folder or hub dataset; rows that cannot be used are named, not lost."""

from demotune.data.loading import (
    LoadedData,
    LoadedPreferences,
    are_preferences,
    load_demonstrations,
    load_preferences,
)
from demotune.data.naming import parse_columns
from demotune.data.prompts import as_prompt, checked_prompt, read_prompt_file
from demotune.data.reading import refuse_missing_source
from demotune.data.rows import BadRow, Reason

__all__ = [
    "BadRow",
    "LoadedData",
    "LoadedPreferences",
    "Reason",
    "are_preferences",
    "as_prompt",
    "checked_prompt",
    "load_demonstrations",
    "load_preferences",
    "parse_columns",
    "read_prompt_file",
    "refuse_missing_source",
]
