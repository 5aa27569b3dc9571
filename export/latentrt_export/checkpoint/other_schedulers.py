"""Schedulers of diffusers 0.42.1 that have no sampler here: those that another stands in for, and those refused.

A class that has betas and a prediction type only chooses a way over a schedule that samplers here walk as well. Any
other means another noise, or another kind of model: its pictures would be wrong without a word.
"""

from collections.abc import Mapping

# The class whose sampler walks the same schedule in its place.
STAND_INS: Mapping[str, str] = {
    "DDIMParallelScheduler": "DDIMScheduler",  # the same steps
    "DDPMParallelScheduler": "DDPMScheduler",  # the same steps
    "DDIMInverseScheduler": "DDIMScheduler",  # from a picture to noise, of which no picture is drawn
    "DPMSolverMultistepInverseScheduler": "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler": "DPMSolverMultistepScheduler",
    "SASolverScheduler": "UniPCMultistepScheduler",
}
EDM = "whose noise levels are EDM's (Karras et al., 2022) and no betas"
SDE = "which solves a stochastic equation of its own and has no betas"
CONSISTENCY = "which is for consistency models, trained over noise levels of their own"
FLOW = "which is for flow models of another kind than those that FlowMatchEulerDiscreteScheduler walks"
TOKENS = "which uncovers tokens and knows no noise"
# Why a class is refused.
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
    "DDPMWuerstchenScheduler": "which is Wuerstchen's, of a noise of its own and no betas",
    "IPNDMScheduler": "whose noise is Dance Diffusion's and no betas",
    "RePaintScheduler": "which draws into pictures and jumps back and forth, with models of pixels",
    "UnCLIPScheduler": "which is for unCLIP's priors and takes a learned variance",
}
