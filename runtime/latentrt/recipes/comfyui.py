"""ComfyUI: a picture holds the graph of nodes that made it; the settings are read upstream of the last sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentrt.recipes.recipe import Recipe, curve, mapping_of, real, sampler, text, whole

GRAPH, WORKFLOW = "prompt", "workflow"
# EXIF tags that hold both in WebP files, as "prompt:{...}".
TAGS = ("Model", "Make", "UserComment", "Description")
TEXT = ("text", "text_g", "text_positive", "positive", "prompt", "string", "value", "text_l", "t5xxl", "clip_l")
CONDITIONING = ("conditioning", "conditioning_1", "conditioning_to", "positive", "cond")
SEEDS, VALUES = ("seed", "noise_seed"), ("value", "int", "float", "string", "number", "Number")


@dataclass(frozen=True)
class Graph:
    """A graph: its nodes by number."""

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
        """The node that an input comes from; None for an input with a value of its own."""
        is_link = isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes
        return str(value[0]) if is_link else None

    def upstream(self, node: str | None) -> Iterator[str]:
        """A node and all nodes that it depends on, the nearest first, each once."""
        queue, visited = [node] if node else [], set[str]()
        while queue:
            one = queue.pop(0)
            if one not in visited:
                visited.add(one)
                yield one
                queue += [link for value in self.inputs(one).values() if (link := self.linked(value))]

    def value(self, start: str | None, *names: str) -> Any:
        """The first value of an input of these names, at the node or upstream of it."""
        for node in self.upstream(start):
            for name in names:
                found = self.plain(self.inputs(node).get(name))
                if found is not None:
                    return found
        return None

    def plain(self, value: Any) -> Any:
        """An input's own value, or the value in the node that it comes from; None if there is none."""
        if self.linked(value) is None:
            return None if isinstance(value, (list, dict)) else value
        return next(self.linked_values(value, (*SEEDS, *VALUES), set()), None)

    def words(self, value: Any, role: str) -> str | None:
        """The text of a sampler's conditioning, from the first node upstream that has one. role: "positive" or so."""
        names = (role, *TEXT, *CONDITIONING)
        return next((found for one in self.linked_values(value, names, set()) if (found := text(one))), None)

    def linked_values(self, value: Any, names: Sequence[str], visited: set[str]) -> Iterator[Any]:
        """The values of inputs of these names, at the node that an input comes from, and upstream through them."""
        node = self.linked(value)
        if node is None or node in visited:
            return
        visited.add(node)
        inputs = self.inputs(node)
        for name in names:
            one = inputs.get(name)
            if self.linked(one) is not None:
                yield from self.linked_values(one, names, visited)
            elif one is not None and not isinstance(one, (list, dict)):
                yield one


def recipe_of(texts: dict[str, str]) -> Recipe | None:
    """Recipe of the graph in the texts; None if there is none."""
    found = dict(texts)
    for tag in TAGS:
        name, colon, rest = texts.get(tag, "").partition(":")
        if colon and name in (GRAPH, WORKFLOW):
            found.setdefault(name, rest)
    nodes, workflow = mapping_of(found.get(GRAPH)), mapping_of(found.get(WORKFLOW))
    if nodes is None and workflow is None:
        return None
    graph = Graph({str(key): node for key, node in (nodes or {}).items()})
    kinds = sorted({graph.kind(node) for node in graph.nodes} - {""})
    return Recipe("ComfyUI", settings_of(graph), {"nodes": kinds} if kinds else {})


def settings_of(graph: Graph) -> dict[str, Any]:
    """The settings of the last sampler and of the nodes upstream of it."""
    start = last_sampler(graph)
    if start is None:
        return {}
    inputs = graph.inputs(start)
    guider = graph.inputs(graph.linked(inputs.get("guider")))
    positive = inputs.get("positive", guider.get("positive", guider.get("conditioning")))
    named = sampler(graph.value(start, "sampler_name")) or {}
    latent = graph.linked(inputs.get("latent_image")) or start
    strength = real(graph.value(start, "denoise"))
    found = {
        "prompt": graph.words(positive, "positive"),
        "negative": graph.words(inputs.get("negative", guider.get("negative")), "negative"),
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
    """The last sampler that no other sampler depends on."""
    found = [node for node in graph.nodes if "sampler" in graph.kind(node).lower() and samples(graph.inputs(node))]
    used = {other for node in found for other in graph.upstream(node) if other != node}
    return next((node for node in reversed(found) if node not in used), found[-1] if found else None)


def samples(inputs: Mapping[str, Any]) -> bool:
    """True if a node with these inputs runs a sampler; False if it only selects one."""
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
