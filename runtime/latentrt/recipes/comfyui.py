"""ComfyUI: a picture holds the graph of nodes that made it. The settings are those upstream of its last sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentrt.recipes.recipe import Recipe, curve, mapping_of, real, sampler, text, whole

GRAPH, DRAWN = "prompt", "workflow"
# EXIF's tags in which its WebP files have them, "prompt:{...}".
TAGS = ("Model", "Make", "UserComment", "Description")
TEXT = ("text", "text_g", "text_positive", "positive", "prompt", "string", "value", "text_l", "t5xxl", "clip_l")
CONDITIONING = ("conditioning", "conditioning_1", "conditioning_to", "positive", "cond")
SEEDS, VALUES = ("seed", "noise_seed"), ("value", "int", "float", "string", "number", "Number")


@dataclass(frozen=True)
class Graph:
    """Nodes by their numbers, and where inputs come from."""

    nodes: Mapping[str, Any]

    def inputs(self, node: str | None) -> dict[str, Any]:
        """A node's inputs."""
        found = self.nodes.get(node) if node is not None else None
        inputs = found.get("inputs") if isinstance(found, dict) else None
        return inputs if isinstance(inputs, dict) else {}

    def kind(self, node: str) -> str:
        """A node's class."""
        found = self.nodes.get(node)
        return str(found.get("class_type", "")) if isinstance(found, dict) else ""

    def linked(self, value: Any) -> str | None:
        """The node that an input is linked to; None for a value."""
        is_link = isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes
        return str(value[0]) if is_link else None

    def upstream(self, node: str | None) -> Iterator[str]:
        """A node and all that it depends on, the nearest first, each once."""
        waiting, seen = [node] if node else [], set[str]()
        while waiting:
            one = waiting.pop(0)
            if one not in seen:
                seen.add(one)
                yield one
                waiting += [link for value in self.inputs(one).values() if (link := self.linked(value))]

    def value(self, start: str | None, *names: str) -> Any:
        """The first of these inputs that has a value, at the node or upstream of it, through nodes that hold one."""
        for node in self.upstream(start):
            for name in names:
                found = self.plain(self.inputs(node).get(name))
                if found is not None:
                    return found
        return None

    def plain(self, value: Any) -> Any:
        """A value, or what the node that it is linked to holds; None where that is nothing."""
        if self.linked(value) is None:
            return None if isinstance(value, (list, dict)) else value
        return next(self.held(value, (*SEEDS, *VALUES), set()), None)

    def words(self, value: Any, role: str) -> str | None:
        """The text of what conditions a sampler, of the first node behind it that has any. role: which half of it."""
        names = (role, *TEXT, *CONDITIONING)
        return next((found for one in self.held(value, names, set()) if (found := text(one))), None)

    def held(self, value: Any, names: Sequence[str], seen: set[str]) -> Iterator[Any]:
        """The values of inputs of these names, at the node that a value is linked to, and behind them."""
        node = self.linked(value)
        if node is None or node in seen:
            return
        seen.add(node)
        inputs = self.inputs(node)
        for name in names:
            one = inputs.get(name)
            if self.linked(one) is not None:
                yield from self.held(one, names, seen)
            elif one is not None and not isinstance(one, (list, dict)):
                yield one


def recipe_of(texts: dict[str, str]) -> Recipe | None:
    """Recipe of the graph in the texts; None if there is none."""
    found = dict(texts)
    for tag in TAGS:
        name, colon, rest = texts.get(tag, "").partition(":")
        if colon and name in (GRAPH, DRAWN):
            found.setdefault(name, rest)
    nodes, drawn = mapping_of(found.get(GRAPH)), mapping_of(found.get(DRAWN))
    if nodes is None and drawn is None:
        return None
    graph = Graph({str(key): node for key, node in (nodes or {}).items()})
    kinds = sorted({graph.kind(node) for node in graph.nodes} - {""})
    return Recipe("ComfyUI", settings_of(graph), {"nodes": kinds} if kinds else {})


def settings_of(graph: Graph) -> dict[str, Any]:
    """The settings of the last sampler, and of what it depends on."""
    start = last_sampler(graph)
    if start is None:
        return {}
    own = graph.inputs(start)
    guider = graph.inputs(graph.linked(own.get("guider")))
    positive = own.get("positive", guider.get("positive", guider.get("conditioning")))
    named = sampler(graph.value(start, "sampler_name")) or {}
    latent = graph.linked(own.get("latent_image")) or start
    strength = real(graph.value(start, "denoise"))
    found = {
        "prompt": graph.words(positive, "positive"),
        "negative": graph.words(own.get("negative", guider.get("negative")), "negative"),
        "steps": whole(graph.value(start, "steps")),
        **{name: value for name, value in named.items() if value is not None},
        "sigmas": curve(graph.value(start, "scheduler")),
        "guidance": real(graph.value(start, "cfg")),
        "seed": whole(graph.value(start, *SEEDS)),
        "width": whole(graph.value(latent, "width")),
        "height": whole(graph.value(latent, "height")),
        "strength": strength if strength != 1 else None,
        "model": text(graph.value(start, "ckpt_name", "unet_name")),
        "loras": loras_of(graph, start),
    }
    return {name: value for name, value in found.items() if value not in (None, [])}


def last_sampler(graph: Graph) -> str | None:
    """The sampler on which no other depends."""
    found = [node for node in graph.nodes if "sampler" in graph.kind(node).lower() and samples(graph.inputs(node))]
    used = {other for node in found for other in graph.upstream(node) if other != node}
    return next((node for node in reversed(found) if node not in used), found[-1] if found else None)


def samples(inputs: Mapping[str, Any]) -> bool:
    """True if a node with these inputs runs a sampler, rather than choosing one."""
    return bool({"latent_image", "positive", "guider", "seed", "noise_seed"} & inputs.keys())


def loras_of(graph: Graph, start: str) -> list[dict[str, Any]]:
    """The LoRA files that the sampler's model passes through."""
    found = []
    for node in graph.upstream(start):
        inputs = graph.inputs(node)
        if file := text(inputs.get("lora_name")):
            scales = {"scale": real(inputs.get("strength_model")), "text_scale": real(inputs.get("strength_clip"))}
            found.append({"file": file, **{name: scale for name, scale in scales.items() if scale is not None}})
    return found
