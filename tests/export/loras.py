"""LoRA files for the small models: random adapters made by peft, and laid out as kohya's trainers do."""

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from tests.export import tiny

UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "conv2", "time_emb_proj"]
UNET_LAYERS += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_embedding.linear_1", "conv_in"]
TEXT_LAYERS = ["q_proj", "k_proj", "out_proj", "fc1"]


def adapters(seed, rank=3, alpha=5, kind=LoraConfig, **options):
    """Returns peft's adapters of both modules by the module's name in a pipeline, every tensor random."""
    found = {}
    for name, module, layers in (
        ("unet", tiny.build_unet(), UNET_LAYERS),
        ("text_encoder", tiny.build_text_encoder(), TEXT_LAYERS),
    ):
        strength = {"lora_alpha" if kind is LoraConfig else "alpha": alpha}
        module.add_adapter(kind(r=rank, target_modules=layers, **strength, **options))
        state, random = get_peft_model_state_dict(module, adapter_name="default"), torch.Generator().manual_seed(seed)
        found[name] = {key: 0.2 * torch.randn(t.shape, generator=random) for key, t in sorted(state.items())}
    return found


def save_kohya(path, found, alpha):
    """Writes the adapters as kohya's trainers do: paths with underscores, down and up, and an alpha a layer."""
    tensors = {}
    for name, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for key, tensor in found[name].items():
            layer, half = key.removesuffix(".weight").rsplit(".lora_", 1)
            layer = prefix + layer.removeprefix("text_model.").replace(".", "_")
            tensors[f"{layer}.lora_{ {'A': 'down', 'B': 'up'}[half] }.weight"] = tensor
            tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, path)
