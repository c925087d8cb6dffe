"""Models: policy and reward, attention, packing, log-probabilities."""
