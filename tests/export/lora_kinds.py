"""A small Stable Diffusion 1 whose norms and biases all differ, and LoRA files of one layer for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.lora.files import Lora
from latentrt.lora.weights import changed_weights
from latentrt_export.checkpoint.load import Checkpoint, load_checkpoint
from latentrt_export.checkpoint.lora import with_loras
from latentrt_export.export import ExportOptions, export
from latentrt_export.graph import save
from tests.export.tiny_families import TINY, reference

# A layer of each kind of place in the graphs: a turned matrix, a kernel, two stacked matrices, another component.
LAYERS = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (
        "unet",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    ),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (
        "unet",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    ),
    "lora_unet_down_blocks_0_resnets_0_conv2": ("unet", "down_blocks.0.resnets.0.conv2"),
    "lora_unet_up_blocks_1_resnets_0_time_emb_proj": ("unet", "up_blocks.1.resnets.0.time_emb_proj"),
    "lora_te_text_model_encoder_layers_1_mlp_fc1": ("text_encoder", "encoder.layers.1.mlp.fc1"),
}
NORMS = {
    "lora_unet_down_blocks_0_resnets_0_norm1": ("unet", "down_blocks.0.resnets.0.norm1"),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm2": (
        "unet",
        "mid_block.attentions.0.transformer_blocks.0.norm2",
    ),
    "lora_unet_conv_norm_out": ("unet", "conv_norm_out"),
    "lora_te_text_model_final_layer_norm": ("text_encoder", "final_layer_norm"),
}


@dataclass(frozen=True)
class Model:
    """A checkpoint and its bundle, and the weights of both by component and key, float64."""

    folder: Path
    checkpoint: Checkpoint
    bundle: Bundle
    weights: dict[str, dict[str, torch.Tensor]]


def build(folder):
    """Writes the checkpoint and exports it."""
    theirs = reference(TINY["sd1"], folder / "tokenizers")
    random = torch.Generator().manual_seed(7)
    for module in (theirs.unet, theirs.text_encoder):
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    theirs.save_pretrained(folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "LARGEST_SINGLE_FILE_BYTES", 0)  # weights lie beside the graphs, but for the smallest
        export(folder / "checkpoint", folder / "bundle", ExportOptions())
    checkpoint = load_checkpoint(folder / "checkpoint")
    return Model(folder, checkpoint, open_bundle(folder / "bundle"), states(checkpoint))


def states(checkpoint):
    """The weights of the UNet and the text encoder, by the keys of the modules."""
    modules = {name: checkpoint.components[name].load() for name in ("unet", "text_encoder")}
    return {name: {bare(key): t.double() for key, t in m.state_dict().items()} for name, m in modules.items()}


def bare(key):
    """A text encoder's key without what old versions begin it with."""
    return key.removeprefix("text_model.")


def saved(path, tensors, notes=None):
    """Writes tensors, and returns the file."""
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, notes)
    return path


def fused(model, *loras):
    """The weights as a component has them that loads with files fused into it."""
    found = {name: dict(state) for name, state in model.weights.items()}
    for component in with_loras(model.checkpoint, loras).components.values():
        for change in component.changes:
            key = bare(change.weight)
            weight = found[component.name][key].float().numpy()
            found[component.name][key] = torch.from_numpy(change.apply(weight)).double()
    return found


def at_run_time(model, *loras):
    """The same of the bundle: every weight that the files change, put back where the checkpoint has it."""
    found = {name: dict(state) for name, state in model.weights.items()}
    for weights in changed_weights(model.bundle, loras).values():
        for changed in weights.overrides.values():
            array = changed.read()
            for place, change in changed.changes:
                found[change.component][change.weight] = torch.from_numpy(np.array(place.of(array))).double()
    return found


def check(model, file, expected, scale=1.0, tolerance=2e-6):
    """Holds both against the weights expected, by component and key; no other is touched."""
    for found in (fused(model, Lora(file, scale)), at_run_time(model, Lora(file, scale))):
        for name, state in model.weights.items():
            changed = {key for key, weight in found[name].items() if weight is not state[key]}
            assert changed == expected.get(name, {}).keys()
        for name, state in expected.items():
            for key, weight in state.items():
                torch.testing.assert_close(found[name][key], weight, rtol=tolerance, atol=tolerance)
                assert (weight - model.weights[name][key]).abs().max() > 1e-3, f"{key} is as before"
