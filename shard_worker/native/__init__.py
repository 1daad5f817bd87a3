"""Native CPU kernels: a whole decoder step, or one matrix product, in one call."""
