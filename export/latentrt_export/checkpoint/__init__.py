"""Checkpoints: recognised, read, and matched with the torch modules of their weights; files that are added to them."""

__all__ = [
    *(
        "adapters",
        "builders",
        "classes",
        "controls",
        "embeddings",
        "families",
        "family",
        "folder",
        "image_embeddings",
        "image_prompts",
        "layouts",
        "load",
        "lora",
    ),
    *("markers", "match", "named", "paths", "pickles", "recognition", "scheduler", "stored", "tokenizer"),
]
