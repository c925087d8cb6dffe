"""People as judges: a local page for blind pairwise comparison, and what their votes say."""
