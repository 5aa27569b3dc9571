"""Texts that tokenizers may disagree on: many scripts, emoji, marks, spaces, controls, special tokens."""

import random
import unicodedata
from collections.abc import Callable, Sequence

from latentrt.prompt.tokenizer import BOS, EOS

SCRIPTS = [
    (0x0041, 0x005A), (0x0061, 0x007A), (0x00C0, 0x017F), (0x0370, 0x03FF), (0x0400, 0x04FF), (0x0531, 0x0587),
    (0x05D0, 0x05EA), (0x0620, 0x064A), (0x0904, 0x0939), (0x0E01, 0x0E30), (0x1100, 0x11FF), (0x10A0, 0x10FF),
    (0x13A0, 0x13F5), (0x1E00, 0x1FFF), (0x3041, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF01, 0xFF5E),
    (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x20000, 0x2A6D6),
]  # fmt: skip
EMOJI_PARTS = [*"\U0001f468\U0001f469\U0001f680\U0001f3fd\U0001f1e9\u2764\ufe0f\u20e3\U0001f9d1\U0001f33e\u2640"]
WORDS = """a photo of an astronaut riding the red Apple's house don't I'll we've YOU'RE I'm he'd 'tis rock'n'roll it'S
medium-dark 4K 16:9 (masterpiece:1.2) [cat|dog] <lora:x> oil_painting #art @home C++ 100% \u00bd x\u00b2 \u2167 IJ
\u01c5 \u0130stanbul DI\u015e \u1e9e Stra\u00dfe \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \ufb01ne caf\u00e9
cafe\u0301 \u212b \u00c5 A\u030a \u0958 <start_of_text> </w> \u2019s \u201cquoted\u201d ... !!! ?! &amp; \ufffd \ufeff
\u00b5 \u01f0""".split()
SPECIAL = [BOS, EOS, BOS.upper(), "<|EndOfText|>", "<|endoftext", "|>", "!", "<cat-toy>", f" {EOS} ", f"{BOS}{EOS}"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\u2028", "\x85", "\x1f", ""]


def texts(count: int) -> list[str]:
    """Return the same texts each time: many scripts, emoji, marks, spaces, controls, special tokens, short and long."""
    rng = random.Random(20_240_229)

    def run(low: int, high: int) -> str:
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))

    pieces: Sequence[Callable[[], str]] = (
        lambda: rng.choice(WORDS),
        lambda: rng.choice(WORDS).swapcase(),
        lambda: run(*rng.choice(SCRIPTS)),
        lambda: run(*rng.choice(SCRIPTS)).title(),
        lambda: unicodedata.normalize("NFD", run(*rng.choice(SCRIPTS))),
        lambda: run(0x20, 0x7E),
        lambda: run(0x00, 0x1F),
        lambda: run(0x80, 0xBF),
        lambda: rng.choice("aeiou\u0915\u05d0") + run(0x0300, 0x036F),
        lambda: str(rng.randint(0, 10**6)),
        lambda: run(*rng.choice([(0x0660, 0x0669), (0x0966, 0x096F), (0x2150, 0x218B), (0x1D7CE, 0x1D7FF)])),
        lambda: rng.choice(["\u200d", ""]).join(rng.choices(EMOJI_PARTS, k=rng.randint(1, 5))),
        lambda: "".join(chr(rng.choice([*range(0x2000, 0x2070), 0xFE0F, 0xE0001])) for _ in range(3)),
        lambda: run(0x10000, 0x10FFFF),
        lambda: rng.choice(SPECIAL),
    )

    def text() -> str:
        words = rng.randint(50, 90) if rng.random() < 0.02 else rng.randint(0, 6)
        return "".join(rng.choice(pieces)() + rng.choice(SPACES[: rng.randint(1, len(SPACES))]) for _ in range(words))

    return ["", " ", "a " * 75, "a " * 76, "a " * 30, "a " * 31, *WORDS, *SPECIAL, *(text() for _ in range(count))]
