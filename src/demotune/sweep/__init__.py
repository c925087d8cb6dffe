"""Many trials from one file: plan them (plan), run them (run, child, on_ray), compare them (conclude)."""
