"""Small models of the latent diffusion paper on both sides: exported and opened here, and diffusers' modules.

Where diffusers has a pipeline, it is the reference; else a short loop around its modules, `ldm.sampled`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, LDMPipeline, LDMSuperResolutionPipeline, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from PIL import Image
from torch import nn

import latentrt
from latentrt.pipeline.pipeline import Pipeline
from latentrt_export.export import ExportOptions, export
from tests.export import compvis, tiny
from tests.export.ldm import FIRST_STAGE, KL, RESAMPLING, UNET, first_stage, pixels, psnr, sampled, saved, scheduler

SIZE = {"width": 96, "height": 64}
ONE_TOKEN_UNET = {
    **{key: UNET[key] for key in ("sample_size", "in_channels", "out_channels", "norm_num_groups")},
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 1,
    "cross_attention_dim": 24,
}
WITHOUT_ATTENTION = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "mid_block_add_attention": False,
}
BERT = {
    **{"d_model": 24, "encoder_layers": 2, "encoder_ffn_dim": 96, "encoder_attention_heads": 8, "head_dim": 8},
    **{"vocab_size": 8192, "max_position_embeddings": 92},
}
BOXES = [
    {"label": 15, "box": [0.1, 0.2, 0.5, 0.6]},
    {"label": 351, "box": [0.0, 0.0, 1.0, 1.0]},
    {"label": 0, "box": [0.25, 0.75, 0.75, 0.25]},
]


@dataclass(frozen=True)
class Case:
    """One request: its steps, its guidance, its eta and its seeds."""

    steps: int = 2
    guidance: float = 1.0
    eta: float = 0.0
    seeds: tuple[int, ...] = (0,)


PLAIN = (Case(1), Case(2, eta=1.0), Case(4, seeds=(3, 4, 5)), Case(20))
GUIDED = (Case(1), Case(1, 3.0), Case(2, 3.0, seeds=(0, 1, 2)), Case(3, 3.0, eta=1.0), Case(20, 3.0))


@dataclass(frozen=True)
class LdmPair:
    """A model on both sides. theirs: the pictures of a case. request: what each request states besides the case."""

    ours: Pipeline
    theirs: Callable[[Case], Any]
    request: dict[str, Any] = field(default_factory=dict)
    modules: tuple[nn.Module, ...] = ()

    def psnr(self, case: Case, **request: Any) -> float:
        """The PSNR in dB of a case's pixels, not yet rounded."""
        options = {"steps": case.steps, "eta": case.eta, "seed": case.seeds[0], "batch": len(case.seeds)}
        guidance = {"guidance": case.guidance} if case.guidance != 1 or self.ours.bundle.manifest.unconditional else {}
        return psnr(pixels(self.ours, **{**self.request, **options, **guidance, **request}), self.theirs(case))


def opened(checkpoint: Path, folder: Path, **options: Any) -> Pipeline:
    """Exports a checkpoint and opens the bundle."""
    export(checkpoint, folder, ExportOptions(**options))
    return latentrt.load(folder, engine="onnxruntime")


def from_file(folder: Path, unet: nn.Module, stage: nn.Module, name: str, configs=None, **more: Any) -> Pipeline:
    """Writes an original file, exports it and opens the bundle."""
    file, known = saved(folder, unet, stage, configs, **more)
    return opened(file, folder / "bundle", configs=known, name=name)


def looped(predict: Callable[..., Any], stage: nn.Module, channels: int = 3) -> Callable[[Case], Any]:
    """The pictures of a short loop. predict: the noise, from latents, timestep and "unguided"."""

    def theirs(case: Case) -> Any:
        options = {"steps": case.steps, "guidance": case.guidance, "eta": case.eta, "seeds": case.seeds}
        return sampled(predict, stage, scheduler(), (channels, 16, 24), **options)

    return theirs


def unconditional(folder: Path) -> LdmPair:
    """A folder of LDMPipeline, compared with a loop; `pipelines` compares with the pipeline itself."""
    unet = tiny.seeded(lambda: UNet2DModel(**UNET)).eval()
    stage = first_stage()
    LDMPipeline(vqvae=stage, unet=unet, scheduler=scheduler()).save_pretrained(folder / "checkpoint")
    ours = opened(folder / "checkpoint", folder / "bundle")
    return LdmPair(ours, looped(lambda x, t, _unguided: unet(x, t).sample, stage), SIZE, (unet, stage))


def churches(folder: Path) -> LdmPair:
    """ResNets that resample, scale and shift, and a KL first stage with attention at a level."""
    unet = tiny.seeded(lambda: UNet2DModel(**RESAMPLING)).eval()
    stage = tiny.seeded(lambda: AutoencoderKL(**KL)).eval()
    ours = from_file(folder, unet, stage, "churches")
    return LdmPair(ours, looped(lambda x, t, _unguided: unet(x, t).sample, stage, 4), SIZE, (unet, stage))


def upscaler(folder: Path) -> LdmPair:
    """A folder of LDMSuperResolutionPipeline, whose last step goes to no noise at all."""
    unet = tiny.seeded(lambda: UNet2DModel(**{**UNET, "in_channels": 6})).eval()
    known = scheduler(0.0155, set_alpha_to_one=True)
    theirs = LDMSuperResolutionPipeline(vqvae=first_stage(), unet=unet, scheduler=known)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "checkpoint")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8))

    def drawn(case: Case) -> Any:
        options = {"num_inference_steps": case.steps, "eta": 0.0, "output_type": "np"}
        return theirs(image, generator=torch.Generator().manual_seed(case.seeds[0]), **options).images

    return LdmPair(opened(folder / "checkpoint", folder / "bundle"), drawn, {"init": image})


def classes(folder: Path, count: int = 1001) -> LdmPair:
    """A class-conditional model. count: of classes; the last of 1001 stands for none."""
    unet = tiny.seeded(lambda: UNet2DConditionModel(**ONE_TOKEN_UNET)).eval()
    stage, table = first_stage(), nn.Embedding(count, 24)
    nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(1))
    configs = {"class_embedding": {"num_embeddings": count, "embedding_dim": 24}}
    more = {"cond_stage_model.embedding.weight": table.weight.detach()}
    ours = from_file(folder, unet, stage, "class", configs, **more)

    def predict(x, timestep, unguided):
        label = torch.full((len(x),), 1000 if unguided else 207)
        return unet(x, timestep, table(label)[:, None]).sample

    return LdmPair(ours, looped(predict, stage), {**SIZE, "class_label": "golden retriever"})


def inpainter(folder: Path) -> LdmPair:
    """As `inpaint.py` of the original: a mask of -1 and 1, black holes, and a first stage without attention."""
    unet = tiny.seeded(lambda: UNet2DModel(**{**RESAMPLING, "in_channels": 7, "out_channels": 3})).eval()
    stage = first_stage({**FIRST_STAGE, **WITHOUT_ATTENTION})
    tensors = compvis.vae_tensors(stage).items()
    copied = {key.replace("first_stage_model", "cond_stage_model"): one for key, one in tensors}
    ours = from_file(folder, unet, stage, "inpainting", **copied)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    white = np.zeros((64, 96), bool)
    white[10:50, 20:70] = True
    shown, mask = (torch.from_numpy(one).float() for one in (image / 127.5 - 1, white))
    masked = torch.where(mask[..., None] > 0, -1.0, shown).permute(2, 0, 1)[None]
    with torch.no_grad():
        extra = torch.cat([stage.encode(masked).latents, (mask * 2 - 1)[None, None, ::4, ::4]], 1)

    def predict(x, timestep, unguided):
        return unet(torch.cat([x, extra.expand(len(x), -1, -1, -1)], 1), timestep).sample

    request = {"init": Image.fromarray(image), "mask": Image.fromarray(white)}
    return LdmPair(ours, looped(predict, stage), request)


def semantic(folder: Path) -> LdmPair:
    """Label maps, brought to the latents' size as the original's SpatialRescaler does."""
    unet = tiny.seeded(lambda: UNet2DModel(**{**UNET, "in_channels": 6})).eval()
    stage, mapper = first_stage(), tiny.seeded(lambda: nn.Conv2d(182, 3, 1, bias=False))
    more = {"cond_stage_model.channel_mapper.weight": mapper.weight.detach()}
    ours = from_file(folder, unet, stage, "labels", {"segmentation": {"labels": 182, "channels": 3}}, **more)
    labels = np.random.default_rng(1).integers(0, 182, (64, 96))
    one_hot = nn.functional.one_hot(torch.from_numpy(labels), 182).permute(2, 0, 1)[None].float()
    half = {"scale_factor": 0.5, "mode": "bilinear"}
    with torch.no_grad():
        extra = mapper(nn.functional.interpolate(nn.functional.interpolate(one_hot, **half), **half))

    def predict(x, timestep, unguided):
        return unet(torch.cat([x, extra.expand(len(x), -1, -1, -1)], 1), timestep).sample

    Image.fromarray(labels.astype(np.uint8)).save(folder / "labels.png")
    return LdmPair(ours, looped(predict, stage), {"segmentation": folder / "labels.png"})


def retrieval(folder: Path) -> LdmPair:
    """As `knn2img.py` of the original: vectors of length 1, and zeros without guidance."""
    config = {**ONE_TOKEN_UNET, "in_channels": 4, "out_channels": 4, "attention_head_dim": [2, 4]}
    config |= {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    unet = tiny.seeded(lambda: UNet2DConditionModel(**config)).eval()
    stage = tiny.seeded(lambda: AutoencoderKL(**KL)).eval()
    vectors = np.random.default_rng(0).standard_normal((11, 24)).astype(np.float32)
    context = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[None]

    def predict(x, timestep, unguided):
        known = torch.zeros_like(context) if unguided else context
        return unet(x, timestep, known.expand(len(x), -1, -1)).sample

    np.save(folder / "vectors.npy", vectors)
    ours = from_file(folder, unet, stage, "rdm")
    return LdmPair(ours, looped(predict, stage, 4), {**SIZE, "vectors": folder / "vectors.npy"})


def layouts(folder: Path) -> LdmPair:
    """Boxes as tokens of an LDM-BERT, before transformers of depth 2."""
    unet = tiny.seeded(lambda: UNet2DConditionModel(**{**ONE_TOKEN_UNET, "transformer_layers_per_block": 2})).eval()
    encoder = tiny.seeded(lambda: LDMBertModel(LDMBertConfig(**BERT))).eval()
    stage, more = first_stage(), compvis.bert_tensors(encoder)
    ours = from_file(folder, unet, stage, "boxes", {"layout_encoder": {**BERT, "model_type": "ldmbert"}}, **more)
    with torch.no_grad():
        boxed, empty = (encoder(tokens_of(one))[0] for one in (BOXES, []))

    def predict(x, timestep, unguided):
        return unet(x, timestep, (empty if unguided else boxed).expand(len(x), -1, -1)).sample

    (folder / "boxes.json").write_text(json.dumps(BOXES))
    return LdmPair(ours, looped(predict, stage), {**SIZE, "layout": folder / "boxes.json"})


def tokens_of(boxes):
    """The tokens as taming-transformers' builder describes them: class, top left, bottom right, on a grid of 90."""
    corners = [((x, y), (x + w, y + h)) for x, y, w, h in (box["box"] for box in boxes)]
    grid = [[round(y * 89) * 90 + round(x * 89) for x, y in pair] for pair in corners]
    objects = [[box["label"], *pair] for box, pair in zip(boxes, grid, strict=True)]
    objects += [[8191] * 3] * (30 - len(objects))
    return torch.tensor([[*(token for one in objects for token in one), 0, 8099]])


# Every kind of model: how it is made, and the cases that it is compared in.
KINDS = {
    "unconditional": (unconditional, PLAIN),
    "churches": (churches, PLAIN),
    "super-resolution": (upscaler, (Case(1), Case(2), Case(20))),
    "classes": (classes, GUIDED),
    "inpainting": (inpainter, PLAIN),
    "label maps": (semantic, PLAIN),
    "vectors": (retrieval, GUIDED),
    "layouts": (layouts, GUIDED),
}
