"""Schedulers of diffusers 0.42.1 without a sampler here: those that another sampler replaces, and those refused.

A class with betas and a prediction type uses a noise schedule that other samplers can use too. Any other class means
another noise or another kind of model: its pictures would be wrong without an error.
"""

from collections.abc import Mapping

# The class whose sampler replaces it, on the same schedule.
STAND_INS: Mapping[str, str] = {
    "DDIMParallelScheduler": "DDIMScheduler",  # the same steps
    "DDPMParallelScheduler": "DDPMScheduler",  # the same steps
    "DDIMInverseScheduler": "DDIMScheduler",  # inversion: from a picture to noise
    "DPMSolverMultistepInverseScheduler": "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler": "DPMSolverMultistepScheduler",
    "SASolverScheduler": "UniPCMultistepScheduler",
}
EDM = "whose noise levels are those of EDM (Karras et al., 2022), without betas"
SDE = "which solves another stochastic equation, without betas"
CONSISTENCY = "which is for consistency models with their own noise levels"
FLOW = "which is for other flow models than FlowMatchEulerDiscreteScheduler"
TOKENS = "which unmasks tokens and has no noise"
# Reasons why a class is refused.
OTHERS: Mapping[str, str] = {
    **dict.fromkeys(("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"), EDM),
    **dict.fromkeys(("CosineDPMSolverMultistepScheduler", "KarrasVeScheduler"), EDM),
    **dict.fromkeys(("ScoreSdeVeScheduler", "ScoreSdeVpScheduler"), SDE),
    **dict.fromkeys(("CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "SCMScheduler"), CONSISTENCY),
    **dict.fromkeys(("AmusedScheduler", "BlockRefinementScheduler", "VQDiffusionScheduler"), TOKENS),
    **dict.fromkeys(("DiscreteDDIMScheduler", "EntropyBoundScheduler"), TOKENS),
    **dict.fromkeys(("FlowMapEulerDiscreteScheduler", "FlowMatchLCMScheduler", "HeliosScheduler"), FLOW),
    **dict.fromkeys(("HeliosDMDScheduler", "LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler"), FLOW),
    **dict.fromkeys(("PiflowScheduler", "RFD4ProteinaScheduler"), FLOW),
    **dict.fromkeys(("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"), "whose betas are shifted for videos"),
    "DDPMWuerstchenScheduler": "which is for Wuerstchen, with its own noise and without betas",
    "IPNDMScheduler": "which is for Dance Diffusion, with its own noise and without betas",
    "RePaintScheduler": "which inpaints with models of pixels and jumps back and forth in time",
    "UnCLIPScheduler": "which is for unCLIP's priors with a learned variance",
}
