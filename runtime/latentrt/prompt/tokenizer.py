"""Prompt to token ids: CLIP's byte-pair encoding, run by the `tokenizers` package.

The vocabulary, the splitting rules and the special tokens live in the bundle's `tokenizer.json`; how many ids a row has
and which of them begin, end and fill it are numbers in `bundle.json`. So nothing here depends on a family, and what the
json says about padding, truncation and templates is dropped when it is loaded.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.4, and
`clip/simple_tokenizer.py` of github.com/openai/CLIP. Must give the same ids as `transformers.CLIPTokenizer` 5.23.
"""

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, and the shape and the special ids of the rows that a text encoder takes.

    `length` counts every position of a row, BOS and EOS included. `tokenizer(["a cat", ""])` is two rows. `vectors`:
    the ids of words that are learned embeddings, and how many ids in a row, that one first, each of them stands for.
    """

    backend: tokenizers.Tokenizer
    length: int
    bos: int
    eos: int
    pad: int
    vectors: Mapping[int, int] = field(default_factory=dict, kw_only=True)

    @classmethod
    def load(
        cls, file: Path, *, length: int, bos: int, eos: int, pad: int, embeddings: Mapping[str, int] | None = None
    ) -> "Tokenizer":
        """Return the tokenizer that a `tokenizer.json` describes. embeddings: by word, as `vectors` are by id.

        Raises BundleError when the file cannot be read as one, when an id or a word is not in its vocabulary, and when
        `length` leaves no room for BOS and EOS.
        """
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises nothing narrower, for a missing file as for a damaged one
            raise BundleError(
                f"{file}: not a tokenizer.json that tokenizers {tokenizers.__version__} can read ({error}); "
                "export the bundle again, or upgrade: pip install -U tokenizers"
            ) from error
        if length < 2:
            raise BundleError(f"{file}: rows of {length} tokens, expected at least 2 (BOS and EOS); export again")
        for name, number in (("bos", bos), ("eos", eos), ("pad", pad)):
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
        # ids() promises every token and nothing else, and a template would count towards a truncation.
        backend.no_truncation()
        backend.no_padding()
        backend.post_processor = None
        return cls(backend, length, bos, eos, pad, vectors=vectors)

    def ids(self, text: str) -> list[int]:
        """Return all token ids of `text`: no BOS, no EOS, no padding, however long. Raises RequestError as `pieces`."""
        return [number for piece in self.pieces(text) for number in piece]

    def pieces(self, text: str) -> list[tuple[int, ...]]:
        """Return the token ids of `text`, those of an embedding together, any other by itself.

        A special token spelled out in the text ("<|endoftext|>") is that token, as in transformers. Raises RequestError
        when the text holds half a surrogate pair, which is what a byte that is not UTF-8 becomes on the command line.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"character {error.start} of the prompt is {text[error.start]!r}, expected Unicode text; "
                "is the prompt encoded as UTF-8?"
            ) from error
        ids = self.backend.encode(text, add_special_tokens=False).ids
        return [tuple(range(number, number + self.vectors.get(number, 1))) for number in ids]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return one row of ids per text: (len(texts), length) int64, BOS, the ids that fit, EOS, then padding.

        The same as `transformers.CLIPTokenizer` with `padding="max_length"`, `truncation=True`, `max_length=length`.
        Raises RequestError as `ids` does.
        """
        rows = np.full((len(texts), self.length), self.pad, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.bos, *self.ids(text)[: self.length - 2], self.eos]
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

    `specials` are cut out of a text before anything else splits it; those that `vocab` lacks get the next free ids, in
    this order. Raises KeyError when `bos` or `eos` is in neither, and a bare Exception (`tokenizers` has no other) when
    a merge makes a token that is not in `vocab`.

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
    """Return the id of a token; raises KeyError where `Tokenizer.token_to_id` returns None."""
    number = backend.token_to_id(token)
    if number is None:
        raise KeyError(f"{token!r} is not in a vocabulary of {backend.get_vocab_size()} tokens")
    return number
