"""Plans for NVIDIA's GPUs, and graphs optimised for a processor."""
