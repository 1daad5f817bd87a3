"""Decode steps on NVIDIA and AMD GPUs: fused Triton kernels, recorded as graphs and replayed."""
