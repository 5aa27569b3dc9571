"""Small autoencoders of the latent diffusion paper's shapes: modules from a seed, and files in the original layout."""

import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import save_file

from tests.export import compvis, tiny


def config(widths, attends, *, layers=2, **more):
    """The config of an autoencoder with attention at these levels, counted from the finest."""
    blocks = [f"{'Attn' * (level in attends)}" for level in range(len(widths))]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "down_block_types": tuple(f"{one}DownEncoderBlock2D" for one in blocks),
        "up_block_types": tuple(f"{one}UpDecoderBlock2D" for one in reversed(blocks)),
        "norm_num_groups": 32,
        "sample_size": 256,
        "scaling_factor": 1.0,
        **more,
    }


def vq(widths, attends, channels, vectors, **more):
    """The class and config of a VQ model."""
    more = {"latent_channels": channels, "vq_embed_dim": channels, "num_vq_embeddings": vectors, **more}
    return VQModel, config(widths, attends, **more)


def kl(widths, attends, channels, **more):
    """The class and config of a KL autoencoder."""
    return AutoencoderKL, config(widths, attends, latent_channels=channels, **more)


# The paper's, at a quarter of their width; widths are multiples of the norms' 32 groups.
SMALL = {
    "vq-f4": vq((32, 64, 128), (), 3, 64),
    "vq-f4-noattn": vq((32, 64, 128), (), 3, 64, mid_block_add_attention=False),
    "vq-f8": vq((32, 64, 64, 128), (3,), 4, 64),
    "vq-f16": vq((32, 32, 64, 64, 128), (4,), 8, 64),
    "kl-f4": kl((32, 64, 128), (), 3),
    "kl-f8": kl((32, 64, 128, 128), (), 4, scaling_factor=0.18215),
    "kl-f16": kl((32, 32, 64, 64, 128), (4,), 16),
    "kl-f32": kl((32, 32, 64, 64, 128, 128), (4, 5), 64),
}


def built(name):
    """A small autoencoder; a codebook is spread as its latents are."""
    kind, values = SMALL[name]
    module = tiny.seeded(lambda: kind(**values)).eval()
    if kind is VQModel:
        with torch.no_grad():
            module.quantize.embedding.weight.normal_(generator=torch.Generator().manual_seed(3))
    return module


def original_tensors(module):
    """The tensors of a file as published: no prefix, and the loss of the training."""
    bare = {key.removeprefix("first_stage_model."): one for key, one in compvis.vae_tensors(module).items()}
    return bare | {"loss.discriminator.main.0.weight": torch.ones(4, 4), "loss.logvar": torch.zeros(())}


def saved(module, file, **more):
    """Writes an original file and returns its path. more: further tensors."""
    tensors = original_tensors(module) | more
    save_file({key: one.detach().contiguous().clone() for key, one in tensors.items()}, file)
    return file
