"""Networks as they are traced: split, with residuals and hoisted inputs."""
