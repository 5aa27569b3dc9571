"""Qwen's tokenizer of a checkpoint as the runtime's `Tokenizer`, with the chat's template around each text.

Only the vocabulary, merges, special tokens and the template of a folder are read; the rest is Qwen2's, as in
`transformers.Qwen2Tokenizer.from_pretrained` since version 5. The template is rendered once, by transformers' sandbox,
around a text that stands for a prompt.

Source: `Qwen2Tokenizer.__init__` of transformers 5.24 (models/qwen2), whose ids it must give;
`_get_qwen3_prompt_embeds` of diffusers 0.42.1's Flux2KleinPipeline.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers.utils.chat_template_utils import render_jinja_template

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import Tokenizer, token_id
from latentrt_export.checkpoint.vocabulary import (
    Json,
    Vocabulary,
    all_tokens,
    check_known,
    read_object,
    specials_of,
)

# The tokens of a row, which is padded; families take as many.
LENGTH = 512
END = "<|endoftext|>"
# In transformers' order, in which tokens that the vocabulary lacks get their ids. Values: Qwen2Tokenizer's defaults.
NAMED = {"eos_token": END, "unk_token": END, "pad_token": END}
# Qwen2's division of a text into what merges may join: contractions, words, digits, signs, line breaks and spaces.
PARTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Stands for a prompt in the template.
PLACE = "\N{WHITE SQUARE}latentrt\N{WHITE SQUARE}"


def byte_pair_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder that has `tokenizer.json`, or `vocab.json` and `merges.txt`.

    Use `QWEN.read`, which reports damaged files.
    """
    config = read_object(folder / "tokenizer_config.json", optional=True)
    QWEN.check(folder, config)
    vocab, merges, stored = vocabulary_in(folder)
    named, specials, added = specials_of(folder, config, stored, NAMED)
    check_known(folder, {name: token.content for name, token in zip(NAMED, named, strict=True)}, vocab, added)
    backend = backend_of(vocab, merges, all_tokens(specials, added))
    eos, _, pad = (token_id(backend, token.content) for token in named)
    before, after = (
        tuple(backend.encode(part, add_special_tokens=False).ids) for part in template_around(folder, config)
    )
    return Tokenizer(backend, LENGTH, None, eos, pad, before=before, after=after)


def vocabulary_in(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[Json]]:
    """Return tokens, merges and added tokens from `tokenizer.json`, else from `vocab.json` and `merges.txt`."""
    vocab, merges, whole = folder / "vocab.json", folder / "merges.txt", folder / "tokenizer.json"
    if whole.is_file():
        stored = read_object(whole)
        model = stored["model"]
        if model.get("end_of_word_suffix") or "merges" not in model:
            raise CheckpointError(f"{whole}: not Qwen's, expected a BPE model whose words have no ending")
        lines = (line.split(" ") if isinstance(line, str) else line for line in model["merges"])
        pairs = [(left, right) for left, right in lines]
        return model["vocab"], pairs, stored.get("added_tokens", [])
    if vocab.is_file() and merges.is_file():
        return *BPE.read_file(str(vocab), str(merges)), []
    raise QWEN.missing(folder)


def backend_of(
    vocab: dict[str, int], merges: list[tuple[str, str]], tokens: Sequence[AddedToken]
) -> tokenizers.Tokenizer:
    """Return Qwen2's tokenizer. tokens: cut out of a text before it is split."""
    backend = tokenizers.Tokenizer(BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PARTS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(tokens))
    return backend


def template_around(folder: Path, config: Json) -> tuple[str, str]:
    """Return what a chat's template writes before a user's text, and after it up to the answer, without thoughts."""
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if not isinstance(template, str):
        raise CheckpointError(f"{folder}: got no chat_template.jinja, expected the template of its chats; fetch it too")
    messages = [[{"role": "user", "content": PLACE}]]
    (text,), _ = render_jinja_template(messages, None, None, template, False, False, True, enable_thinking=False)
    before, found, after = text.partition(PLACE)
    if not found or PLACE in after:
        raise CheckpointError(f"{folder}: its chat template writes a text {text.count(PLACE)} times, expected once")
    return before, after


def no_vocabulary() -> Tokenizer:
    """Raise CheckpointError: no package has Qwen's vocabulary."""
    raise CheckpointError(
        "got no tokenizer, expected Qwen's; pass a folder with its tokenizer.json and chat_template.jinja by "
        "--tokenizer DIR"
    )


QWEN = Vocabulary(
    ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
    "tokenizer.json, or vocab.json and merges.txt",
    byte_pair_tokenizer,
    no_vocabulary,
)
