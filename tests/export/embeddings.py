"""Words of textual inversion on both sides: their files, what reads them, and the pictures that are drawn with them."""

import numpy as np
import torch
from safetensors.torch import save_file

from latentrt.request.request import Request
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.export import ExportOptions
from tests.export.tiny_families import SMALL, TINY, reference
from tests.export.untraced import untraced

SIZE = {"width": 56, "height": 40}


def vectors(seed, *shape):
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(path):
    """Checkpoints of one text encoder and of two; embeddings of three vectors, of one, and of one for each encoder."""
    for name, family in (("sd1", SMALL), ("sdxl", TINY["sdxl"])):
        reference(family, path / "tokenizers" / name).save_pretrained(path / name)
    save_file({"<cat>": vectors(1, 3, 32)}, path / "cat.safetensors")
    save_file({"emb_params": vectors(2, 32)}, path / "bad-hands.safetensors")
    save_file({"clip_l": vectors(3, 2, 32), "clip_g": vectors(4, 2, 48)}, path / "style.safetensors")
    return path


def with_words(folder, out):
    """Both sides with the words of two files; ours is in torch."""
    files = tuple(Embedding(folder / f"{name}.safetensors") for name in ("cat", "bad-hands"))
    theirs = reference(SMALL, folder / "tokenizers" / "sd1")
    theirs.load_textual_inversion(folder / "cat.safetensors")
    theirs.load_textual_inversion(folder / "bad-hands.safetensors", token="bad-hands")
    return untraced(folder / "sd1", out, ExportOptions(embeddings=files)), theirs


def images(ours, theirs, prompt, negative):
    """Both sides' pixels, not rounded."""
    asked = {"seed": 0, "steps": 2, "guidance": 5.0, "syntax": "plain", **SIZE}
    latents = ours.steps(Request(prompt, negative, **asked)).latents()
    expected = theirs(
        prompt,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **SIZE,
    ).images
    return np.clip(ours.decode(latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1), expected
