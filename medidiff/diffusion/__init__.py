"""Network, schedule, sampler, tiles: the mathematics of restoring, on tensors alone."""
