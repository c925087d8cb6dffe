"""Benchmark tasks through lm-eval."""
