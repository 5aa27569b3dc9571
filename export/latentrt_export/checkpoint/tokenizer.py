"""CLIP's tokenizer of a checkpoint as the runtime's `Tokenizer`.

Only the vocabulary, merges and special tokens of a folder are read; the rest is CLIP's, as in
`transformers.CLIPTokenizer.from_pretrained` since version 5: a `tokenizer.json` with another normalizer gives CLIP's
ids all the same. transformers itself is not imported.

Source: the vocabulary that `bpe_simple_vocab_16e6.txt.gz` stands for: `clip/simple_tokenizer.py` of
github.com/openai/CLIP.
"""

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from tokenizers.models import BPE

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import BOS, EOS, WORD_END, Tokenizer, backend_from_vocabulary, token_id
from latentrt_export.checkpoint.vocabulary import (
    Json,
    Vocabulary,
    all_tokens,
    check_known,
    read_object,
    specials_of,
)

Merges: TypeAlias = list[tuple[str, str]]

CLIP_LENGTH = 77
CLIP_MERGES = 49152 - 256 - 2  # the lines that CLIP was trained with; the file goes on for five times as many
CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"

# In transformers' order, in which tokens that the vocabulary lacks get their ids. Values: CLIPTokenizer's defaults.
_NAMED = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
_LONGEST = 1 << 16  # transformers writes 10**30 for an unknown length


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """Return the tokenizer of a diffusers or transformers `tokenizer/` folder.

    The folder has `tokenizer.json`, or `vocab.json` and `merges.txt`; its `tokenizer_config.json` and, in older ones,
    `special_tokens_map.json` and `added_tokens.json` name the special tokens. Ids equal those of
    `transformers.CLIPTokenizer.from_pretrained(folder)`, also where that surprises: a pad token "!" (Stable Diffusion
    2.x) makes every "!" in a prompt the pad token.

    Raises CheckpointError as `Vocabulary.read` does.
    """
    return CLIP.read(folder)


def clip_tokenizer() -> Tokenizer:
    """Return OpenAI CLIP's tokenizer: 49408 tokens, rows of 77, padded with EOS.

    The same ids as `openai/clip-vit-large-patch14`. A checkpoint in a single file carries no vocabulary, so it is taken
    from an installed `open_clip_torch`, which is not imported: that would import torchvision. What pads with 0 (Stable
    Diffusion 2.x, the second encoder of SDXL) takes `dataclasses.replace(clip_tokenizer(), pad=0)`.

    Raises CheckpointError when `open_clip_torch` is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    files = [Path(place) / CLIP_FILE for place in (spec and spec.submodule_search_locations) or ()]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise CheckpointError(
            f"a checkpoint in a single file has no vocabulary, and no open_clip/{CLIP_FILE} is installed; "
            "pip install --no-deps open_clip_torch, or pass --tokenizer DIR"
        )
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = _pairs(lines[1 : 1 + CLIP_MERGES])
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + WORD_END for symbol in symbols), *map("".join, merges), BOS, EOS]
    vocab = {token: number for number, token in enumerate(tokens)}
    return Tokenizer(
        backend_from_vocabulary(vocab, merges), CLIP_LENGTH, bos=vocab[BOS], eos=vocab[EOS], pad=vocab[EOS]
    )


def _tokenizer(folder: Path) -> Tokenizer:
    config = read_object(folder / "tokenizer_config.json")
    length = _length(folder, config)
    vocab, merges, stored = _vocabulary(folder)
    named, specials, added = specials_of(folder, config, stored, _NAMED)
    bos, eos, unknown, pad = (token.content for token in named)
    check_known(folder, {"bos_token": bos, "eos_token": eos, "pad_token": pad}, vocab, added)
    backend = backend_from_vocabulary(vocab, merges, all_tokens(specials, added), bos=bos, eos=eos, unknown=unknown)
    return Tokenizer(backend, length, *(token_id(backend, token) for token in (bos, eos, pad)))


def _length(folder: Path, config: Json) -> int:
    """Return the length of a row. Raises CheckpointError for a config that the runtime's Tokenizer does not support."""
    CLIP.check(folder, config)
    length = config.get("model_max_length")
    if type(length) is not int or not 2 <= length <= _LONGEST:
        raise CheckpointError(
            f"{folder}: model_max_length is {length!r}, expected the number of tokens that the text encoder takes; "
            f"write it into tokenizer_config.json (CLIP: {CLIP_LENGTH})"
        )
    return length


def _vocabulary(folder: Path) -> tuple[dict[str, int], Merges, list[Json]]:
    """Return tokens, merges and added tokens from `tokenizer.json`, else from `vocab.json` and `merges.txt`."""
    vocab, merges, whole = folder / "vocab.json", folder / "merges.txt", folder / "tokenizer.json"
    if whole.is_file():
        stored = read_object(whole)
        model = stored["model"]
        if model.get("end_of_word_suffix") != WORD_END or "merges" not in model:
            raise CheckpointError(f"{whole}: not CLIP's, expected a BPE model whose words end in {WORD_END!r}")
        return model["vocab"], _pairs(model["merges"]), stored.get("added_tokens", [])
    if vocab.is_file() and merges.is_file():
        return *BPE.read_file(str(vocab), str(merges)), []
    raise CLIP.missing(folder)


def _pairs(lines: Sequence[str | Sequence[str]]) -> Merges:
    """Return merges from `"i n"` (merges.txt, and tokenizer.json before tokenizers 0.20) or `["i", "n"]`."""
    return [(left, right) for left, right in (line.split(" ") if isinstance(line, str) else line for line in lines)]


def _byte_symbols() -> list[str]:
    """Return a visible character for each of the 256 bytes, in CLIP's order: those that have one come first."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, visible), *(chr(256 + number) for number in range(256 - len(visible)))]


CLIP = Vocabulary(
    ("CLIPTokenizer", "CLIPTokenizerFast"), "tokenizer.json, or vocab.json and merges.txt", _tokenizer, clip_tokenizer
)
