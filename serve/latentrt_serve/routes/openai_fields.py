"""OpenAI's fields of a picture: what each is here, and their JSON schemas."""

from __future__ import annotations

from latentrt_serve.schemas import FLAG, TEXT, Schema, bounded, closed, field_schema, fields_schema

# Other servers' names of fields, and ours.
ALIASES = {
    "n": "batch",
    "num_inference_steps": "steps",
    "step": "steps",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "negative_prompt": "negative",
    "scheduler": "sampler",
    "sampler_name": "sampler",
}
# Fields of OpenAI's that change nothing here.
IGNORED = ("quality", "style", "user", "safety_identifier", "moderation", "background", "complexity", "input_fidelity")
FORMATS = ("png", "jpeg", "webp")
MOST_PARTIAL = 3
FILE: Schema = {"type": "string", "format": "binary"}
# Fields of OpenAI's that are read here, and no field of the request.
OWN: dict[str, Schema] = {
    "model": TEXT,
    "size": {"type": "string", "pattern": "^([1-9][0-9]{0,3}x[1-9][0-9]{0,3}|auto)$"},
    "output_format": {"enum": list(FORMATS)},
    "output_compression": bounded("integer", 0, 100),
    "response_format": {"enum": ["b64_json"]},
    "stream": FLAG,
    "partial_images": bounded("integer", 0, MOST_PARTIAL),
}


def generation_schema() -> Schema:
    """The schema of a request for pictures."""
    aliases = {name: field_schema(ours) for name, ours in ALIASES.items()}
    return closed({**fields_schema(), **aliases, **OWN, **dict.fromkeys(IGNORED, TEXT)})


def edit_schema() -> Schema:
    """The schema of a request for pictures made of an image, which comes as a form."""
    fields = generation_schema()["properties"]
    images = {"image": FILE, "mask": FILE}
    return closed({**{name: one for name, one in fields.items() if name not in ("init", "mask")}, **images}, "image")
