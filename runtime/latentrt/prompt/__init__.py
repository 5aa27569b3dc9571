r"""The prompt language: emphasis, chunks, editing and composition as AUTOMATIC1111's web UI has them. See `read`.

A prompt is read from the outside in: tags are taken out, AND divides it, editing picks the text of a step, brackets
weigh that text, and what they weigh is cut into chunks. Each of these is a file, and a function of text alone.
"""

from latentrt.prompt.attention import BREAK, weighted
from latentrt.prompt.chunks import Chunk, chunked
from latentrt.prompt.composition import composed
from latentrt.prompt.editing import at_each_step
from latentrt.prompt.reading import SYNTAXES, Guide, Prompt, Syntax, read, without_text
from latentrt.prompt.strict import check
from latentrt.prompt.tags import ORDERS, Order, Tag, tags_of, untagged

__all__ = [
    "BREAK",
    "ORDERS",
    "SYNTAXES",
    "Chunk",
    "Guide",
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
