"""Sampling in this process: KV cache, continuous batching."""
