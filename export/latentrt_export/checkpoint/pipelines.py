"""Pipelines of diffusers 0.42.1, by their names in model_index.json, whose folders hold a family's components.

They add only networks or methods around the same model, so their folders are exported like those of the base pipeline.
"""

STABLE_PIPELINES = (
    "StableDiffusionPipeline",
    *("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionInpaintPipelineLegacy"),
    "StableDiffusionInstructPix2PixPipeline",
    *("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
    *("StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline"),
    *("StableDiffusionControlNetInpaintPipeline", "StableDiffusionAdapterPipeline"),
    *("StableDiffusionPAGPipeline", "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline"),
    *("StableDiffusionControlNetPAGPipeline", "StableDiffusionControlNetPAGInpaintPipeline"),
    *("StableDiffusionAttendAndExcitePipeline", "StableDiffusionDiffEditPipeline", "StableDiffusionPanoramaPipeline"),
    *("StableDiffusionModelEditingPipeline", "StableDiffusionParadigmsPipeline", "StableDiffusionPix2PixZeroPipeline"),
    *("StableDiffusionSAGPipeline", "SemanticStableDiffusionPipeline", "StableDiffusionPipelineSafe"),
    *("CycleDiffusionPipeline", "TextToVideoZeroPipeline"),
    # A community pipeline that takes prompts of any length, and adds nothing to the model.
    "StableDiffusionLongPromptWeightingPipeline",
)
# Variations of an image.
UNCLIP_PIPELINES = ("StableUnCLIPImg2ImgPipeline",)
# The same with a prior in place of the image.
PRIOR_PIPELINES = ("StableUnCLIPPipeline",)
XL_PIPELINES = (
    "StableDiffusionXLPipeline",
    *("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "StableDiffusionXLInstructPix2PixPipeline",
    *("StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetImg2ImgPipeline"),
    *("StableDiffusionXLControlNetInpaintPipeline", "StableDiffusionXLAdapterPipeline"),
    *("StableDiffusionXLControlNetUnionPipeline", "StableDiffusionXLControlNetUnionImg2ImgPipeline"),
    "StableDiffusionXLControlNetUnionInpaintPipeline",
    *("StableDiffusionXLPAGPipeline", "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGInpaintPipeline"),
    *("StableDiffusionXLControlNetPAGPipeline", "StableDiffusionXLControlNetPAGImg2ImgPipeline"),
    *("TextToVideoZeroSDXLPipeline", "SDXLLongPromptWeightingPipeline"),
)
