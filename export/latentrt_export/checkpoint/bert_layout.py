"""The original layout of LDM-BERT's keys.

Source: `TransformerWrapper` in ldm/modules/x_transformer.py of github.com/CompVis/latent-diffusion, where attention and
feed-forward each are a layer.
"""

from __future__ import annotations

import re

from latentrt_export.checkpoint.layouts import Tensors
from latentrt_export.networks.component import Config

PREFIX = "cond_stage_model.transformer."
# A key that every file with LDM-BERT has, and no other: CLIP's keys have the same prefix.
TOKENS = f"{PREFIX}token_emb.weight"
# The head of its training: the logits of tokens.
UNREAD = r"\.to_logits\."
WHOLE = {
    "token_emb.": "model.embed_tokens.",
    "pos_emb.emb.": "model.embed_positions.",
    "norm.": "model.layer_norm.",
}
# Names in a layer of attention, and in the layer of feed-forward that follows it.
LAYER = re.compile(r"attn_layers\.layers\.(\d+)\.(0|1\.to_out|1\.to_[qkv]|1\.net\.0\.0|1\.net\.2)\.(weight|bias)")
ATTENTION = {
    "0": "self_attn_layer_norm",
    "1.to_out": "self_attn.out_proj",
    **{f"1.to_{letter}": f"self_attn.{letter}_proj" for letter in "qkv"},
}
FEED_FORWARD = {"0": "final_layer_norm", "1.net.0.0": "fc1", "1.net.2": "fc2"}


def bert_keys(tensors: Tensors, config: Config) -> Tensors:
    """Returns the tensors of LDM-BERT under LDMBertModel's names; those of other names keep them."""
    return {bert_key(key.removeprefix(PREFIX)): tensor for key, tensor in tensors.items()}


def bert_key(key: str) -> str:
    """Returns the name of LDMBertModel for a key without its prefix."""
    if match := LAYER.fullmatch(key):
        number, part, leaf = int(match[1]), match[2], match[3]
        name = (FEED_FORWARD if number % 2 else ATTENTION).get(part)
        return f"model.layers.{number // 2}.{name}.{leaf}" if name else key
    start = next((start for start in WHOLE if key.startswith(start)), "")
    return WHOLE.get(start, "") + key.removeprefix(start)
