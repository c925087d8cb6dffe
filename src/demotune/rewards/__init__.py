"""Rewards to use: score, select, best of n."""
