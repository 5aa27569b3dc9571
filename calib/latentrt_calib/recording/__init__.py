"""Recording: the denoiser's inputs in real runs."""
