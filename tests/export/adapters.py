"""Small T2I-Adapters beside the small checkpoints: diffusers' own classes, random weights."""

from diffusers import T2IAdapter

from tests.export import tiny

CONFIGS = {
    "depth": {"channels": [32, 64], "num_res_blocks": 1},
    "sketch": {"channels": [32, 64], "num_res_blocks": 1, "in_channels": 1},
    "light": {"channels": [32, 64], "num_res_blocks": 1, "adapter_type": "light_adapter"},
    "xl": {"channels": [32, 64], "num_res_blocks": 1, "downscale_factor": 16, "adapter_type": "full_adapter_xl"},
    "xl_middle": {
        "channels": [32, 64, 64, 64],
        "num_res_blocks": 1,
        "downscale_factor": 16,
        "adapter_type": "full_adapter_xl",
    },
}


def build_adapter(name: str) -> T2IAdapter:
    """Returns an adapter whose features are about as large as those of a small UNet."""

    def build():
        network = T2IAdapter(**CONFIGS[name])
        for parameter in network.parameters():
            parameter.data.mul_(2 if parameter.ndim > 1 else 1)
        return network

    return tiny.seeded(build).half().float().eval().requires_grad_(False)
