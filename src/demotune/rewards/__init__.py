"""Rewards to use: score rows, select the best, draw the best of n; each by a reward that was learned or given."""
