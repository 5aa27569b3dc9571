"""A checkpoint's tokenizer as the runtime's `Tokenizer`.

Only the vocabulary, merges and special tokens of a folder are read; the rest is CLIP's, as in
`transformers.CLIPTokenizer.from_pretrained` since version 5: a `tokenizer.json` with another normalizer gives CLIP's
ids all the same. transformers itself is not imported.

Sources: which file wins, and in which order special tokens are added: `PreTrainedTokenizerBase._from_pretrained` and
`TokenizersBackend.__init__` of transformers 5.23. The vocabulary that `bpe_simple_vocab_16e6.txt.gz` stands for:
`clip/simple_tokenizer.py` of github.com/openai/CLIP.
"""

import gzip
import importlib.util
import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken
from tokenizers.models import BPE

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import BOS, EOS, WORD_END, Tokenizer, backend_from_vocabulary, token_id

Json: TypeAlias = dict[str, Any]
Merges: TypeAlias = list[tuple[str, str]]
Tokens: TypeAlias = dict[str, AddedToken]

CLIP_LENGTH = 77
CLIP_MERGES = 49152 - 256 - 2  # the lines that CLIP was trained with; the file goes on for five times as many
CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"

# In transformers' order, in which tokens that the vocabulary lacks get their ids. Values: CLIPTokenizer's defaults.
_NAMED = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
# Supported values of config entries; the first is the default.
_ALLOWED = {
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "split_special_tokens": (False,),
}
_LONGEST = 1 << 16  # transformers writes 10**30 for an unknown length


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """Return the tokenizer of a diffusers or transformers `tokenizer/` folder.

    The folder has `tokenizer.json`, or `vocab.json` and `merges.txt`; its `tokenizer_config.json` and, in older ones,
    `special_tokens_map.json` and `added_tokens.json` name the special tokens. Ids equal those of
    `transformers.CLIPTokenizer.from_pretrained(folder)`, also where that surprises: a pad token "!" (Stable Diffusion
    2.x) makes every "!" in a prompt the pad token.

    Raises CheckpointError when a file is missing or cannot be read, when the tokenizer is not CLIP's, and when BOS, EOS
    or the pad token is not in the vocabulary.
    """
    try:
        return _tokenizer(folder)
    except CheckpointError:
        raise
    except Exception as error:  # json of any shape arrives here, and tokenizers raises nothing narrower
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be read ({type(error).__name__}: {error}), expected the files that "
            "transformers.CLIPTokenizer saves; download the folder again, or pass another with --tokenizer DIR"
        ) from error


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
    config = _object(folder / "tokenizer_config.json")
    length = _length(folder, config)
    vocab, merges, stored = _vocabulary(folder)
    named, specials, added = _specials(folder, config, stored)
    bos, eos, unknown, pad = (token.content for token in named)
    for name, token in (("bos_token", bos), ("eos_token", eos), ("pad_token", pad)):
        if token not in vocab and token not in added:
            raise CheckpointError(f"{folder}: {name} is {token!r}, expected one of its {len(vocab)} tokens")
    tokens = [*added.values(), *(specials[content] for content in specials if content not in added)]
    backend = backend_from_vocabulary(vocab, merges, tokens, bos=bos, eos=eos, unknown=unknown)
    return Tokenizer(backend, length, *(token_id(backend, token) for token in (bos, eos, pad)))


def _specials(folder: Path, config: Json, stored: Sequence[Json]) -> tuple[list[AddedToken], Tokens, Tokens]:
    """Return BOS, EOS, unknown and padding; these and all other special tokens; the tokens added to the vocabulary."""
    # A config that lists its added tokens was written with all it needs: transformers opens no older file then.
    older = {} if "added_tokens_decoder" in config else _object(folder / "special_tokens_map.json", optional=True)
    settings = config | older
    named = [_token(settings.get(name) or usual, special=True) for name, usual in _NAMED.items()]
    extra = settings.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    early = [*named, *(_token(entry, special=True) for entry in extra)]
    added = _added(folder, config, stored, {token.content for token in early})
    # transformers looks at these only after added_tokens.json, whose tokens so stay ordinary ones.
    late = [] if extra else older.get("additional_special_tokens") or []
    specials = [*early, *(_token(entry, special=True) for entry in late)]
    # Where two are the same token, as EOS and padding often are, the flags of the later one hold.
    return named, {token.content: token for token in specials}, {token.content: token for token in added}


def _length(folder: Path, config: Json) -> int:
    """Return the length of a row. Raises CheckpointError for a config that the runtime's Tokenizer does not support."""
    for key, allowed in _ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise CheckpointError(f"{folder}: {key} is {config[key]!r}, expected {' or '.join(map(repr, allowed))}")
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
        stored = _object(whole)
        model = stored["model"]
        if model.get("end_of_word_suffix") != WORD_END or "merges" not in model:
            raise CheckpointError(f"{whole}: not CLIP's, expected a BPE model whose words end in {WORD_END!r}")
        return model["vocab"], _pairs(model["merges"]), stored.get("added_tokens", [])
    if vocab.is_file() and merges.is_file():
        return *BPE.read_file(str(vocab), str(merges)), []
    raise CheckpointError(
        f"{folder}: looked for tokenizer.json, or vocab.json and merges.txt, found {_listing(folder)}; "
        "pass a folder that has them with --tokenizer DIR"
    )


def _added(folder: Path, config: Json, stored: Sequence[Json], specials: Container[str]) -> list[AddedToken]:
    """Return the tokens that the folder declares beside its vocabulary, in the order of their ids."""
    if "added_tokens_decoder" in config:
        entries = {int(number): entry for number, entry in config["added_tokens_decoder"].items()}
    else:
        older = _object(folder / "added_tokens.json", optional=True)
        entries = {number: {"content": token} for token, number in older.items()}
        entries |= {entry["id"]: entry for entry in stored}
    return [_token(entries[number], special=entries[number]["content"] in specials) for number in sorted(entries)]


def _token(entry: str | Json, *, special: bool) -> AddedToken:
    """Return the token that a json file writes as its text, or as an object."""
    fields = {"content": entry} if isinstance(entry, str) else entry
    flags = {key: fields[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in fields}
    return AddedToken(fields["content"], special=special or fields.get("special", False), **flags)


def _pairs(lines: Sequence[str | Sequence[str]]) -> Merges:
    """Return merges from `"i n"` (merges.txt, and tokenizer.json before tokenizers 0.20) or `["i", "n"]`."""
    return [(left, right) for left, right in (line.split(" ") if isinstance(line, str) else line for line in lines)]


def _byte_symbols() -> list[str]:
    """Return a visible character for each of the 256 bytes, in CLIP's order: those that have one come first."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, visible), *(chr(256 + number) for number in range(256 - len(visible)))]


def _object(file: Path, *, optional: bool = False) -> Json:
    """Return the json object in a file, {} for an optional one that is not there."""
    if not file.is_file():
        if optional:
            return {}
        raise CheckpointError(f"{file.parent}: looked for {file.name}, found {_listing(file.parent)}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not json ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a {type(value).__name__}, expected an object; download it again")
    return value


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(file.name for file in folder.iterdir())) or "an empty folder"
