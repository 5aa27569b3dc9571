"""Noise of a run: torch's random numbers on a CPU and on a GPU, Brownian paths, variation seeds."""

__all__ = ["source", "torch_cpu", "torch_cuda"]
