"""What a run will cost, from counts of tokens and a machine's ceilings; and how that compares with what it did cost."""
