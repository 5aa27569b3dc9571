"""Trains the tokenizer: CLIP's byte-pair encoding on the captions, every byte a token so that nothing is unknown.

    python -m emoji.tokenizer

Ids: BOS 0, EOS 1 (also the padding), the 256 bytes, the 256 bytes at a word's end, then the merges, best first. The
merges come from captions drawn with a fixed seed and from what people write around them in prompts; the folder can be
read by latentrt and by transformers.CLIPTokenizer, and the last step checks that both give the same ids.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers, trainers

from emoji import index
from emoji.captions import caption, named, pair_caption, pick
from emoji.fetch import FOLDER
from emoji.index import Row
from latentrt.prompt.tokenizer import BOS, EOS, WORD_END, Tokenizer, backend_from_vocabulary

TOKENIZER = FOLDER / "tokenizer"
ENTRIES = 4096
LENGTH = 32  # positions of the text encoder, BOS and EOS included
SEED, CAPTIONS_EACH, CHECKED = 0, 100, 1000

# What prompts hold beside captions; repeated so that each of these words becomes one token.
PROMPT_WORDS = (
    "a photo of a very cute big small little old new happy sad angry funny shiny dark light bright round two three",
    "the same without in under over behind between with and on at of to by from for it is its her his that this",
    "high quality, best quality, highly detailed, 3d render, simple, icon, sticker, illustration, clean background",
    "low quality, worst quality, blurry, deformed, ugly, text, watermark, signature, cropped, noisy, black and white",
    "(red:1.2), [cat:dog:0.5], ((blue)), {green|yellow}, 128x128; really? yes! 10 % & 50 / 50 ... cat's dog's",
)
PROMPT_REPEATS = 20


def texts(rows: Sequence[Row], seed: int = SEED) -> Iterator[str]:
    """Yield what the merges are counted on: captions of every picture, of pairs, all tags, and `PROMPT_WORDS`."""
    rng = np.random.default_rng(seed)
    for row in rows:
        yield from (caption(row, rng).text for _ in range(CAPTIONS_EACH))
        yield pair_caption(row, pick(rows, rng), rng).text
        yield from (named(row, rng), *row.tags)
    yield from PROMPT_WORDS * PROMPT_REPEATS


def train(lines: Iterable[str], entries: int = ENTRIES) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges for at most `entries` tokens; the same for the same lines, in any process.

    The bytes are handed to the trainer as special tokens, in order: left to itself it numbers those at a word's end as
    it meets them, in the order of a hash map, and merges that are equally frequent follow those numbers.
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [BOS, EOS, *symbols, *(symbol + WORD_END for symbol in symbols)]
    backend = backend_from_vocabulary({BOS: 0, EOS: 1}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=first, end_of_word_suffix=WORD_END, min_frequency=2, show_progress=False
    )
    backend.train_from_iterator(lines, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def tokenizer(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Return the runtime's tokenizer for a vocabulary and merges, with rows of 32 ids."""
    return Tokenizer(backend_from_vocabulary(vocab, merges), LENGTH, bos=vocab[BOS], eos=vocab[EOS], pad=vocab[EOS])


def save(vocab: dict[str, int], merges: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json, as transformers lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": BOS,
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), EOS),
    }
    in_order = dict(sorted(vocab.items(), key=lambda entry: entry[1]))
    (folder / "vocab.json").write_text(json.dumps(in_order, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    backend_from_vocabulary(vocab, merges).save(str(folder / "tokenizer.json"))


def differing(folder: Path, lines: Sequence[str]) -> list[str]:
    """Return the lines for which transformers.CLIPTokenizer, given the folder, has other ids than latentrt has."""
    from transformers import CLIPTokenizer  # slow to import, and only this check needs it

    ours = Tokenizer.load(folder / "tokenizer.json", length=LENGTH, bos=0, eos=1, pad=1)
    theirs = CLIPTokenizer.from_pretrained(folder)
    rows = theirs(list(lines), padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
    return [line for line, mine, other in zip(lines, ours(lines), rows, strict=True) if mine.tolist() != other]


def main() -> None:
    """Train, save and check the tokenizer, and print what came of it."""
    try:
        lines = list(texts(index.load()))
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from error
    vocab, merges = train(lines)
    save(vocab, merges, TOKENIZER)
    encode = tokenizer(vocab, merges).ids
    lengths = sorted(len(encode(line)) for line in lines if line not in PROMPT_WORDS)
    whole = lengths[-1] <= LENGTH - 2
    print(f"{len(vocab)} tokens with {len(merges)} merges in {TOKENIZER} (tokenizers {tokenizers.__version__})")
    print(f"ids of a caption: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}, all fit: {whole}")
    wrong = differing(TOKENIZER, lines[:: len(lines) // CHECKED])
    if wrong:
        raise SystemExit(f"error: transformers reads {len(wrong)} captions differently, such as {wrong[0]!r}")
    print(f"transformers.CLIPTokenizer gives the same ids for {len(lines[:: len(lines) // CHECKED])} captions")


if __name__ == "__main__":
    main()
