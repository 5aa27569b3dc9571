"""JSON schemas of requests and of refusals, for the description of the interface: made from the rows of the request."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from latentrt.request.request import RANDOM
from latentrt.request.rows import Choice, Flag, Number, Other, Row, Text, Whole
from latentrt_serve.fields import FIELDS, IMAGES, MOST_PREVIEWS, ROWS, TASKS

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
PICTURE: Schema = {"type": "string", "format": "byte"}
FLAG: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}


def list_of(items: Schema, length: int | None = None) -> Schema:
    """The schema of a list. length: of all that are allowed."""
    bounds = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **bounds}


def any_of(*schemas: Schema) -> Schema:
    """The schema of what one of these allows."""
    return {"anyOf": list(schemas)}


def bounded(kind: str, lowest: float, highest: float | None) -> Schema:
    """The schema of a number in a range."""
    bounds = {"minimum": lowest, "maximum": math.inf if highest is None else highest}
    return {"type": kind, **{name: bound for name, bound in bounds.items() if math.isfinite(bound)}}


KINDS: Mapping[type[Any], Callable[[Any], Schema]] = {
    Text: lambda _kind: TEXT,
    Flag: lambda _kind: FLAG,
    Whole: lambda kind: bounded("integer", kind.lowest, kind.highest),
    Number: lambda kind: bounded("number", kind.lowest, kind.highest),
    Choice: lambda kind: {"enum": list(kind.values)},
    Other: lambda _kind: {},
}
# What a list in a field is, by how the command line reads it: the schema of all that the field may hold.
LISTS: Mapping[str, Callable[[Schema], Schema]] = {
    "numbers": lambda one: any_of(one, list_of(NUMBER)),
    "pixels": lambda one: list_of(one, 4),
    "size": lambda one: list_of(one, 2),
}
# Fields whose rows leave the kind to a module of their own.
OTHERS: Mapping[str, Schema] = {
    **dict.fromkeys(IMAGES, PICTURE),
    "sigmas": any_of(TEXT, list_of(NUMBER)),
    "class_label": any_of({"type": "integer"}, TEXT),
    "guidance_interval": list_of(any_of(NUMBER, {"type": "null"}), 2),
    "seed": bounded("integer", RANDOM, 2**64 - 1),
    "variation_seed": bounded("integer", RANDOM, 2**64 - 1),
    "vectors": list_of(list_of(NUMBER)),
    "layout": list_of(
        {
            "type": "object",
            "properties": {"label": {"type": "integer"}, "box": list_of(NUMBER, 4)},
            "required": ["label", "box"],
        }
    ),
    "references": list_of(PICTURE),
    "controls": list_of(
        {
            "type": "object",
            "properties": {"name": TEXT, "image": PICTURE, **dict.fromkeys(("scale", "start", "end"), NUMBER)},
            "required": ["name", "image"],
            "additionalProperties": False,
        }
    ),
    "eta": NUMBER,
    "gamma": NUMBER,
    "order": {"type": "integer"},
    "solver": TEXT,
}


def field_schema(name: str) -> Schema:
    """The schema of a field of the request; null is the default."""
    row: Row = ROWS[name]
    one = KINDS[type(row.kind)](row.kind)
    plain = OTHERS.get(name) or (LISTS[row.parse](one) if row.parse in LISTS else one)
    return {**any_of(plain, {"type": "null"}), "description": row.help}


def fields_schema() -> dict[str, Schema]:
    """The schema of each field of the request."""
    return {name: field_schema(name) for name in FIELDS}


def job_schema() -> Schema:
    """The schema of a job's request."""
    own: dict[str, Schema] = {
        "model": TEXT,
        "task": {"enum": list(TASKS)},
        "previews": bounded("integer", 0, MOST_PREVIEWS),
        "tile": bounded("integer", 1, None),
        "times": bounded("integer", 1, 4),
    }
    return closed({**fields_schema(), **own})


def closed(properties: Mapping[str, Schema], *required: str) -> Schema:
    """The schema of an object that has no other fields."""
    return {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
        "required": list(required),
    }


def body_of(schema: Schema, media: str = "application/json") -> dict[str, Any]:
    """The description of a route whose body has this schema."""
    return {"requestBody": {"required": True, "content": {media: {"schema": schema}}}}


REFUSALS = {
    400: "The request is wrong; the message says where.",
    401: "No key, or a wrong one.",
    403: "The page that asks is none of this server's.",
    404: "No such model, job, picture or sampler.",
    409: "It does not fit what came before: a key with another request, or a request that was interrupted.",
    410: "The job ended too long ago.",
    413: "The body is too large.",
    421: "The request asks for another host.",
    422: "A value is wrong; the message says where.",
    429: "The queue is full; Retry-After says when to try again.",
    503: "The server is stopping, or its memory does not suffice; Retry-After says when to try again.",
}
ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": TEXT,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
A1111_ERROR: Schema = {
    "type": "object",
    "properties": dict.fromkeys(("error", "detail", "body", "errors"), TEXT),
    "required": ["error", "detail", "body", "errors"],
}


def refusals(schema: Schema) -> dict[int | str, dict[str, Any]]:
    """The answers to what is refused, for the description of routes. schema: of their bodies."""
    content = {"application/json": {"schema": schema}}
    return {status: {"description": text, "content": content} for status, text in REFUSALS.items()}


def answers_of(*media: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that are no JSON alone, for its description. media: their types."""
    return {200: {"description": "Successful Response", "content": {one: {} for one in media}}}
