"""Vocabularies: the kinds of tokenizer that text encoders have, and what their folders have in common.

Sources: which file wins, and in which order special tokens are added: `PreTrainedTokenizerBase._from_pretrained` and
`TokenizersBackend.__init__` of transformers 5.23. transformers itself is not imported.
"""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import Tokenizer

Json: TypeAlias = dict[str, Any]
Tokens: TypeAlias = dict[str, AddedToken]

# Supported values of config entries; the first is the default.
ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "split_special_tokens": (False,),
}


@dataclass(frozen=True)
class Vocabulary:
    """A kind of tokenizer.

    classes: its names in `tokenizer_config.json`; the first is meant where there is none. files: what a folder needs,
    for messages. opened: the tokenizer of a folder. stock: the tokenizer of a single file, which has no vocabulary.
    """

    classes: tuple[str, ...]
    files: str
    opened: Callable[[Path], Tokenizer]
    stock: Callable[[], Tokenizer]

    def read(self, folder: Path) -> Tokenizer:
        """Return the tokenizer of a diffusers or transformers `tokenizer/` folder.

        Raises CheckpointError when a file is missing or cannot be read, when the tokenizer is of another kind, and when
        a special token that a row needs is not in the vocabulary.
        """
        try:
            return self.opened(folder)
        except CheckpointError:
            raise
        except Exception as error:  # json of any shape arrives here, and tokenizers raises nothing narrower
            raise CheckpointError(
                f"{folder}: the tokenizer cannot be read ({type(error).__name__}: {error}), expected the files that "
                f"transformers.{self.classes[0]} saves; download the folder again, or pass another with --tokenizer DIR"
            ) from error

    def check(self, folder: Path, config: Json) -> None:
        """Raise CheckpointError for a `tokenizer_config.json` that the runtime's Tokenizer does not support."""
        for key, allowed in {"tokenizer_class": self.classes, **ALLOWED}.items():
            if config.get(key, allowed[0]) not in allowed:
                expected = " or ".join(map(repr, allowed))
                raise CheckpointError(f"{folder}: {key} is {config[key]!r}, expected {expected}")

    def missing(self, folder: Path) -> CheckpointError:
        """Return the error about a folder without a vocabulary."""
        return CheckpointError(
            f"{folder}: looked for {self.files}, found {listing(folder)}; pass a folder that has them with "
            "--tokenizer DIR"
        )


def check_known(
    folder: Path, named: Mapping[str, str], vocab: Mapping[str, int] | Sequence[str], added: Container[str] = ()
) -> None:
    """Raise CheckpointError for a special token that is in neither vocabulary. named: tokens by config entry."""
    for name, token in named.items():
        if token not in vocab and token not in added:
            raise CheckpointError(f"{folder}: {name} is {token!r}, expected one of its {len(vocab)} tokens")


def all_tokens(specials: Tokens, added: Tokens) -> list[AddedToken]:
    """Return the tokens that are cut out of a text before it is split, in the order in which ids are given."""
    return [*added.values(), *(token for content, token in specials.items() if content not in added)]


def specials_of(
    folder: Path, config: Json, stored: Sequence[Json], usual: Mapping[str, str]
) -> tuple[list[AddedToken], Tokens, Tokens]:
    """Return the named special tokens; these and all other special tokens; the tokens added to the vocabulary.

    stored: added tokens of `tokenizer.json`. usual: the named ones with their defaults, in transformers' order, in
    which tokens that the vocabulary lacks get their ids.
    """
    # A config that lists its added tokens was written with all it needs: transformers opens no older file then.
    older = {} if "added_tokens_decoder" in config else read_object(folder / "special_tokens_map.json", optional=True)
    settings = config | older
    named = [token_of(settings.get(name) or default, special=True) for name, default in usual.items()]
    extra = settings.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    early = [*named, *(token_of(entry, special=True) for entry in extra)]
    added = added_tokens(folder, config, stored, {token.content for token in early})
    # transformers looks at these only after added_tokens.json, whose tokens so stay ordinary ones.
    late = [] if extra else older.get("additional_special_tokens") or []
    specials = [*early, *(token_of(entry, special=True) for entry in late)]
    # Where two are the same token, as EOS and padding often are, the flags of the later one hold.
    return named, {token.content: token for token in specials}, {token.content: token for token in added}


def added_tokens(folder: Path, config: Json, stored: Sequence[Json], specials: Container[str]) -> list[AddedToken]:
    """Return the tokens that the folder declares beside its vocabulary, in the order of their ids."""
    if "added_tokens_decoder" in config:
        entries = {int(number): entry for number, entry in config["added_tokens_decoder"].items()}
    else:
        older = read_object(folder / "added_tokens.json", optional=True)
        entries = {number: {"content": token} for token, number in older.items()}
        entries |= {entry["id"]: entry for entry in stored}
    return [token_of(entries[number], special=entries[number]["content"] in specials) for number in sorted(entries)]


def token_of(entry: str | Json, *, special: bool) -> AddedToken:
    """Return the token that a json file writes as its text, or as an object."""
    fields = {"content": entry} if isinstance(entry, str) else entry
    flags = {key: fields[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in fields}
    return AddedToken(fields["content"], special=special or fields.get("special", False), **flags)


def read_object(file: Path, *, optional: bool = False) -> Json:
    """Return the json object in a file, {} for an optional one that is not there."""
    if not file.is_file():
        if optional:
            return {}
        raise CheckpointError(f"{file.parent}: looked for {file.name}, found {listing(file.parent)}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not json ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a {type(value).__name__}, expected an object; download it again")
    return value


def listing(folder: Path) -> str:
    """Return the files in a folder, for a message."""
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(file.name for file in folder.iterdir())) or "an empty folder"
