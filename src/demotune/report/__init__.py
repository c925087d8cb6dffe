"""A run, or several, as one HTML page that works offline."""

from demotune.report.page import build_report

__all__ = ["build_report"]
