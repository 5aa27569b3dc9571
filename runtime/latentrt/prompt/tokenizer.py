"""Prompt to token ids, by the `tokenizers` package: CLIP's byte-pair encoding, or another that a bundle brings.

The vocabulary, the splitting rules and the special tokens are in the bundle's `tokenizer.json`; the length of a row and
the ids of BOS, EOS and padding are in `bundle.json`. `Tokenizer` depends on no kind of vocabulary. Padding, truncation
and templates in `tokenizer.json` are ignored.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.4, and
`clip/simple_tokenizer.py` of github.com/openai/CLIP. Must give the same ids as `transformers.CLIPTokenizer` 5.23.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from latentrt.errors import BundleError, RequestError

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
SPECIALS = (AddedToken(BOS, special=True), AddedToken(EOS, special=True))
WORD_END = "</w>"

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@contextmanager
def failures_told() -> Iterator[None]:
    """Turns whatever `tokenizers` raises in the block into a ValueError; it raises nothing narrower than Exception.

    A bug in its Rust code, as of text that a rule replaces where nothing stands, is a PanicException: no Exception, and
    of a module that cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from error
        raise


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, with the length and the special ids of a text encoder's rows.

    length: the most positions of a row, BOS and EOS included. bos: None where a row has none. vectors: for each textual
    inversion, its first id and its number of consecutive ids. padded: prompts' rows are filled to the length; False: a
    row ends with its EOS. before, after: the tokens of a chat's template around a text, in place of BOS and EOS; () for
    none. others: the tokenizers of text encoders with another vocabulary, by component. `tokenizer(["a cat", ""])`
    gives two rows, filled in any case.
    """

    backend: tokenizers.Tokenizer
    length: int
    bos: int | None
    eos: int
    pad: int
    vectors: Mapping[int, int] = field(default_factory=dict, kw_only=True)
    padded: bool = field(default=True, kw_only=True)
    before: tuple[int, ...] = field(default=(), kw_only=True)
    after: tuple[int, ...] = field(default=(), kw_only=True)
    others: Mapping[str, "Tokenizer"] = field(default_factory=dict, kw_only=True)

    @classmethod
    def load(
        cls,
        file: Path,
        *,
        length: int,
        bos: int | None,
        eos: int,
        pad: int,
        embeddings: Mapping[str, int] | None = None,
        padded: bool = True,
        before: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
    ) -> "Tokenizer":
        """Return the tokenizer in a `tokenizer.json`. embeddings: the number of vectors of each textual inversion.

        Raises BundleError if the file cannot be read, if an id or a word is not in its vocabulary, and if `length`
        leaves no room for the tokens around a text.
        """
        try:
            with failures_told():
                backend = tokenizers.Tokenizer.from_file(str(file))
        except ValueError as error:
            raise BundleError(
                f"{file}: not a tokenizer.json that tokenizers {tokenizers.__version__} can read ({error}); "
                "export the bundle again, or upgrade: pip install -U tokenizers"
            ) from error
        try:
            with failures_told():
                backend.encode("\N{SNOWMAN} \0", add_special_tokens=False)
        except ValueError as error:  # its model names a token for unknown text that it does not have
            raise BundleError(f"{file}: cannot read any text ({error}); export the bundle again") from error
        least = max(2, len(before) + len(after))
        if length < least:
            around = "the chat's template" if before or after else "BOS and EOS"
            raise BundleError(f"{file}: rows of {length} tokens, expected at least {least} ({around}); export again")
        ends = {"bos": bos, "eos": eos, "pad": pad}
        ends |= {f"token {number} of the chat's template": number for number in (*before, *after)}
        for name, number in ((name, one) for name, one in ends.items() if one is not None):
            if number < 0 or backend.id_to_token(number) is None:
                raise BundleError(
                    f"{file}: {name} is token {number}, expected one of its {backend.get_vocab_size()} tokens; "
                    "bundle.json and this file are not of one model: export the bundle again"
                )
        vectors, known = {}, backend.get_vocab()
        for word, count in (embeddings or {}).items():
            first = known.get(word, len(known))
            vectors[first] = count
            if not 1 <= count <= min(length - 2, len(known) - first):
                raise BundleError(
                    f"{file}: the embedding {word!r} of {count} vectors is not in it, expected one of its {len(known)} "
                    "tokens; bundle.json and this file are not of one model: export the bundle again"
                )
        # ids() returns every token and no other, and a template would count towards a truncation.
        backend.no_truncation()
        backend.no_padding()
        backend.post_processor = None
        return cls(backend, length, bos, eos, pad, vectors=vectors, padded=padded, before=before, after=after)

    @property
    def start(self) -> tuple[int, ...]:
        """The tokens that begin a row: those of a template, BOS, or none."""
        return self.before or (() if self.bos is None else (self.bos,))

    @property
    def end(self) -> tuple[int, ...]:
        """The tokens after a text: those of a template, or EOS."""
        return self.after or (self.eos,)

    @property
    def room(self) -> int:
        """The most tokens of text in a row."""
        return self.length - len(self.start) - len(self.end)

    @property
    def comma(self) -> int | None:
        """The id of a comma between words; None where the vocabulary has none."""
        encoded = self.encoding(",")
        return next((number for number, token in zip(encoded.ids, encoded.tokens, strict=True) if "," in token), None)

    def encoding(self, text: str) -> tokenizers.Encoding:
        """The tokens of `text`. Raises RequestError if the vocabulary cannot encode it."""
        try:
            with failures_told():
                return self.backend.encode(text, add_special_tokens=False)
        except ValueError as error:
            raise RequestError(
                f"{text[:40]!r} cannot be read with the tokenizer.json of this bundle ({error}); export it again"
            ) from error

    def ids(self, text: str) -> list[int]:
        """Return all token ids of `text` without BOS, EOS, padding or limit. Raises RequestError as `pieces` does."""
        return [number for piece in self.pieces(text) for number in piece]

    def pieces(self, text: str) -> list[tuple[int, ...]]:
        """Return the token ids of `text`: one tuple per token, or per textual inversion with all of its ids.

        A special token spelled out in the text ("<|endoftext|>") is that token, as in transformers. Raises RequestError
        if the text contains half a surrogate pair, as from a byte on the command line that is not UTF-8, and if this
        vocabulary cannot encode it.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"character {error.start} of the prompt is {text[error.start]!r}, expected Unicode text; "
                "is the prompt encoded as UTF-8?"
            ) from error
        ids = self.encoding(text).ids
        return [tuple(range(number, number + self.vectors.get(number, 1))) for number in ids]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return one row of ids per text, (len(texts), length) int64: BOS, the ids that fit, EOS, then padding.

        As `transformers.CLIPTokenizer` with `padding="max_length"`, `truncation=True`, `max_length=length`. Raises
        RequestError as `ids` does.
        """
        rows = np.full((len(texts), self.length), self.pad, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [*self.start, *self.ids(text)[: self.room], *self.end]
            row[: len(ids)] = ids
        return rows


def backend_from_vocabulary(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    specials: Sequence[AddedToken] = SPECIALS,
    *,
    bos: str = BOS,
    eos: str = EOS,
    unknown: str = EOS,
) -> tokenizers.Tokenizer:
    """Return CLIP's tokenizer for a `vocab.json` (token to id) and a `merges.txt` (pairs, best first).

    `specials` are cut out of a text before it is split; those that `vocab` lacks get the next free ids, in this order.
    Raises KeyError if `bos` or `eos` is in neither, and a bare Exception (`tokenizers` has no other) if a merge makes a
    token that is not in `vocab`.

    Source: `CLIPTokenizer.__init__` of transformers 5.23 (models/clip/tokenization_clip.py).
    """
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=dict(vocab),
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=unknown,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(specials))  # after the normalizer: tokens marked `normalized` go through it once, here
    backend.post_processor = processors.RobertaProcessing(
        (eos, token_id(backend, eos)), (bos, token_id(backend, bos)), trim_offsets=False, add_prefix_space=False
    )
    return backend


def token_id(backend: tokenizers.Tokenizer, token: str) -> int:
    """Return the id of a token. Raises KeyError if the vocabulary lacks it."""
    number = backend.token_to_id(token)
    if number is None:
        raise KeyError(f"{token!r} is not in a vocabulary of {backend.get_vocab_size()} tokens")
    return number
