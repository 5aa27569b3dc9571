r"""The prompt language: emphasis, chunks, editing and composition as in AUTOMATIC1111's web UI. See `read`.

A prompt is read in five stages, each in its own file: tags are removed, AND divides the prompt, editing picks the text
of each step, brackets give weights, and the weighted text is cut into chunks.
"""

from latentrt.prompt.attention import BREAK, weighted
from latentrt.prompt.chunks import Chunk, chunked
from latentrt.prompt.composition import composed
from latentrt.prompt.editing import at_each_step
from latentrt.prompt.reading import SYNTAXES, Prompt, SubPrompt, Syntax, read, without_text
from latentrt.prompt.strict import check
from latentrt.prompt.tags import ORDERS, Order, Tag, tags_of, untagged

__all__ = [
    "BREAK",
    "ORDERS",
    "SYNTAXES",
    "Chunk",
    "SubPrompt",
    "Order",
    "Prompt",
    "Syntax",
    "Tag",
    "at_each_step",
    "check",
    "chunked",
    "composed",
    "errors",
    "file",
    "read",
    "tags",
    "tags_of",
    "tokenizer",
    "untagged",
    "weighted",
    "without_text",
]
