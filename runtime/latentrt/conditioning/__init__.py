"""Conditioning: what the denoiser is given besides the sample."""
