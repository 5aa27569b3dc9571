"""JSON schemas of AUTOMATIC1111's requests, made from the tables of its fields."""

from __future__ import annotations

from latentrt.request.request import RANDOM
from latentrt_serve.routes.a1111_fields import FITS, HIRES, IMAGE, OVERRIDES, SHARED, UPSCALERS, VARIATION, Table
from latentrt_serve.schemas import FLAG, NUMBER, OBJECT, PICTURE, TEXT, Schema, any_of, bounded, field_schema, list_of

NULL: Schema = {"type": "null"}
# Fields whose values are not those of ours.
OTHERS: dict[str, Schema] = {
    "seed": bounded("integer", RANDOM, None),
    "subseed": bounded("integer", RANDOM, None),
    "tiling": any_of(FLAG, NULL),
    "scheduler": any_of(TEXT, NULL),
    "hr_second_pass_steps": any_of(bounded("integer", 0, None), NULL),
    "hr_upscaler": {"enum": [*UPSCALERS, None]},
    "resize_mode": {"enum": [*FITS, None]},
    "randn_source": {"enum": ["CPU", "GPU", "NV"]},
}
COMMON: dict[str, Schema] = {
    "batch_size": bounded("integer", 1, None),
    "n_iter": bounded("integer", 1, None),
    "enable_hr": FLAG,
    "override_settings": OBJECT,
    "override_settings_restore_afterwards": FLAG,
    "alwayson_scripts": OBJECT,
    "infotext": TEXT,
    "send_images": FLAG,
    "save_images": FLAG,
}
MASKED: dict[str, Schema] = {
    "init_images": list_of(PICTURE, 1),
    "mask": any_of(PICTURE, NULL),
    "mask_blur": any_of(NUMBER, NULL),
    "inpaint_full_res": FLAG,
    "inpaint_full_res_padding": bounded("integer", 0, None),
    "inpainting_fill": {"enum": [0, 1]},
    "inpainting_mask_invert": {"enum": [0, 1]},
    "include_init_images": FLAG,
}


def of_table(*tables: Table) -> dict[str, Schema]:
    """The schema of each field of these tables."""
    return {name: OTHERS.get(name) or field_schema(ours) for table in tables for name, (ours, _reader) in table.items()}


def open_object(properties: dict[str, Schema], *required: str) -> Schema:
    """The schema of an object that may have other fields, which are ignored."""
    return {"type": "object", "properties": properties, "required": list(required)}


TXT2IMG = open_object({**of_table(SHARED, VARIATION, HIRES), **COMMON})
IMG2IMG = open_object({**of_table(SHARED, VARIATION, IMAGE), **COMMON, **MASKED}, "init_images")
OPTIONS = open_object({"sd_model_checkpoint": TEXT, **of_table(OVERRIDES)})
PNG_INFO = open_object({"image": PICTURE}, "image")
