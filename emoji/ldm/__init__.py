"""Two models of the latent diffusion paper's form on the same pictures: classes, and super-resolution by 4."""
