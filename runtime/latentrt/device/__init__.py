"""This machine: processor, memory, NVIDIA's driver and GPUs, a Jetson's modes and power rails."""

__all__ = ["cores", "cpu", "jetson", "meminfo", "nvidia", "nvml"]
