"""Files and folders: atomic writes, typed JSON, safetensors, locks, the user's folders."""

__all__ = ["atomic", "hashes", "json_codec", "locks", "npy", "safetensors", "temporary", "user_dirs"]
