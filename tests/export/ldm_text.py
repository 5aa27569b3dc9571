"""Small text-to-image models of the latent diffusion paper's shape: random weights from a fixed seed."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, LDMTextToImagePipeline, UNet2DConditionModel, VQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from torch import Tensor, nn
from transformers import BertTokenizer

from latentrt_export.export import ExportOptions
from tests.export import compvis, tiny
from tests.export.pairs import PROMPT, SIZE, Pair, exported
from tests.export.word_pieces import save_vocabulary

BERT = {"vocab_size": 1200, "encoder_layers": 2, "encoder_ffn_dim": 128, "d_model": 32}  # heads as published: 8 of 64
VQ = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 32),
    "latent_channels": 3,
    "num_vq_embeddings": 64,
    "norm_num_groups": 8,
    "scaling_factor": 1.0,
}
# The two published shapes: 4 channels of 8 pixels, and 3 channels of 4 pixels with a codebook.
MODELS = {
    "ldm-text-large": (UNet2DConditionModel, tiny.UNET, AutoencoderKL, tiny.VAE),
    "ldm-text-256": (UNet2DConditionModel, {**tiny.UNET, "in_channels": 3, "out_channels": 3}, VQModel, VQ),
}
# Steps, batch and guidance of the requests that are compared.
CASES = tuple(itertools.product(((1, 1), (2, 3), (20, 1), (20, 3)), (1.0, 5.0)))


def build_bert(**changes: object) -> LDMBertModel:
    """Returns LDM-BERT with two layers of width 32, but for changes of its config."""
    model = tiny.seeded(lambda: LDMBertModel(LDMBertConfig(**{**BERT, **changes})))
    for parameter in model.parameters():  # whose biases are zeros, and whose norms are ones, before training
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.1)
    return model


def reference(name: str, folder: Path) -> LDMTextToImagePipeline:
    """Returns diffusers' pipeline of a model; its vocabulary is written into `folder`."""
    unet, unet_config, vae, vae_config = MODELS[name]
    pipeline = LDMTextToImagePipeline(
        vqvae=tiny.seeded(lambda: vae(**vae_config)),
        bert=build_bert(),
        tokenizer=BertTokenizer.from_pretrained(save_vocabulary(folder)),
        unet=tiny.seeded(lambda: unet(**unet_config)),
        scheduler=tiny.build_scheduler(),
    )
    if vae is VQModel:  # a codebook of one variance with the latents, where the random one is much smaller
        pipeline.vqvae.quantize.embedding.weight.normal_(generator=torch.Generator().manual_seed(3))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def opened_pair(name: str, folder: Path, opened=exported, **options) -> Pair:
    """Writes a model's folder and opens it on both sides. opened: what exports and opens; options: of the export."""
    theirs = reference(name, folder / "vocabulary")
    theirs.save_pretrained(folder / "checkpoint")
    ours = opened(folder / "checkpoint", folder / "bundle", ExportOptions(**options))
    return Pair(name, folder, ours, theirs, theirs.scheduler)


def drawn(pair: Pair, batch: int = 1, prompt: str = PROMPT, **options) -> float:
    """The PSNR in dB of a request's pixels. diffusers takes 8 pixels for a latent, whatever its autoencoder says."""
    factor = pair.ours.bundle.manifest.latents.factor
    sides = {side: SIZE[side] * 8 // factor for side in SIZE}
    seeds = [torch.Generator().manual_seed(5 + image) for image in range(batch)]
    theirs = {"prompt": [prompt] * batch, "generator": seeds, **sides}
    return pair.psnr(prompt, batch=batch, theirs=theirs, **options)


def save_single(pipeline: LDMTextToImagePipeline, folder: Path) -> Path:
    """Writes a file in the original layout, and its configs beside it; returns the file."""
    modules = {"unet": pipeline.unet, "vae": pipeline.vqvae, "text_encoder": pipeline.bert}
    (folder / "configs").mkdir(parents=True)
    for name, module in modules.items():
        config = module.config if isinstance(module.config, dict) else module.config.to_dict()
        (folder / "configs" / f"{name}.json").write_text(json.dumps(dict(config)))
    (folder / "configs" / "scheduler.json").write_text(json.dumps(dict(pipeline.scheduler.config)))
    compvis.save_tensors(single_tensors(modules), folder / "single.safetensors", torch.float32)
    return folder / "single.safetensors"


def single_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Returns the tensors of all components in the original layout."""
    unet, vae = compvis.unet_tensors(modules["unet"]), compvis.vae_tensors(modules["vae"])
    return unet | vae | compvis.bert_tensors(modules["text_encoder"])
