"""The image embedding of unCLIP checkpoints for the manifest: its noise levels, and the schedule of its prior."""

from __future__ import annotations

from latentrt.bundle.manifest import ImageEmbedding, Prior
from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.load import Checkpoint
from latentrt_export.checkpoint.scheduler import schedule_of
from latentrt_export.networks.component import Config
from latentrt_export.networks.image_embedding import AUGMENTOR, NOISE, noise_levels
from latentrt_export.networks.prior import PRIOR

# The schedulers of priors, and the variances of their noise.
SCHEDULER, VARIANCES = "DDPMScheduler", ("fixed_small", "fixed_small_log")


def embedding_of(checkpoint: Checkpoint) -> ImageEmbedding | None:
    """Returns the manifest's entry; None for a model without an image embedding. Raises CheckpointError."""
    augmentor, prior = (checkpoint.components.get(name) for name in (AUGMENTOR, PRIOR))
    if augmentor is None:
        return None
    return ImageEmbedding(noise_levels(augmentor.config), prior_of(prior.config[NOISE]) if prior else None)


def prior_of(config: Config) -> Prior:
    """Returns the prior's schedule and limit. Raises CheckpointError for another scheduler."""
    expected = {"_class_name": (SCHEDULER,), "prediction_type": ("sample",), "variance_type": VARIANCES}
    usual = {"prediction_type": "epsilon", "variance_type": "fixed_small", "clip_sample": True, "clip_sample_range": 1}
    known = {**usual, **config}
    for name, values in expected.items():
        if known.get(name) not in values:
            raise CheckpointError(
                f"prior_scheduler: got {name} {known.get(name)!r}, expected {' or '.join(map(repr, values))}; save the "
                "pipeline with prior_scheduler=DDPMScheduler.from_config(prior_scheduler.config), as diffusers advises"
            )
    return Prior(schedule_of(config), float(known["clip_sample_range"]) if known["clip_sample"] else None)
