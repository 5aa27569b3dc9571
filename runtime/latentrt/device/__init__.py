"""Facts about this machine: processor, memory, NVIDIA's driver, a Jetson's modes and meters."""
