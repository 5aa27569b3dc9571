"""A small vocabulary of word pieces in the files of bert-base-uncased, and transformers' tokenizer of it."""

import unicodedata
from pathlib import Path

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = "a an of red blue green apple tree photo astronaut riding the house cafe medium dark don it".split()
PARTS = "s ing ed ut al le".split()
# Letters of several scripts and signs; of every eighth one there is no token, so that words of it are unknown.
RANGES = (
    *((0x21, 0x7E), (0xA1, 0x17F), (0x370, 0x4FF), (0x905, 0x939), (0x1100, 0x1112), (0x4E00, 0x4E40)),
    (0x1F600, 0x1F640),
)


def tokens() -> list[str]:
    """The tokens in the order of their ids: special ones, signs alone and within words, words, parts of words."""
    signs = [chr(number) for low, high in RANGES for number in range(low, high + 1) if number < 0x80 or number % 8]
    kept = [sign for sign in signs if unicodedata.category(sign) not in ("Cn", "Mn") and not sign.isupper()]
    return [*SPECIALS, *kept, *(f"##{sign}" for sign in kept), *WORDS, *(f"##{part}" for part in PARTS)]


def save_vocabulary(folder: Path) -> Path:
    """Writes vocab.txt, which is all that a folder needs; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in dict.fromkeys(tokens())), encoding="utf-8")
    return folder
