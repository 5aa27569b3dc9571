"""Random numbers: torch's generators for CPU and CUDA, and noise over a Brownian path."""
