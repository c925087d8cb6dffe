"""Demonstrations from any common file, folder or hub dataset; rows that cannot be used are listed with a reason."""

from demotune.data.columns_flag import NoFormatError, parse_columns
from demotune.data.loading import Loaded, are_preferences, load_demonstrations, load_preferences
from demotune.data.prompts import as_prompt, checked_prompt, read_prompt_file
from demotune.data.raw_rows import Reason
from demotune.data.sources import refuse_missing_source
from demotune.records import BadRow

__all__ = [
    "BadRow",
    "Loaded",
    "NoFormatError",
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
