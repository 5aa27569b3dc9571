"""Pickles: refused, because loading one can run code; with --allow-pickle, converted by a separate process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from latentrt.bundle.sources import DENOISERS
from latentrt.errors import CheckpointError
from latentrt.storage.atomic import FULL
from latentrt_export.checkpoint import unpickle
from latentrt_export.checkpoint.weight_files import WeightFiles, chosen, found_in

PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
# Stems of weight files in folders of diffusers and transformers: as .safetensors, and as pickles.
PICKLED = {
    "diffusion_pytorch_model": "diffusion_pytorch_model",
    "model": "pytorch_model",
    "pytorch_lora_weights": "pytorch_lora_weights",
    "adapter_model": "adapter_model",
}
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS")
CODE = re.compile(r"GLOBAL (\S+)")


def refusal(file: Path) -> str:
    """The message about a pickle that may not be opened."""
    return (
        f"{file} is a pickle, which can run code on loading: expected .safetensors. Add --allow-pickle, which reads "
        "its tensors in a separate process and runs none of its code, or convert it first:\n"
        "  import safetensors.torch, torch\n"
        f'  w = torch.load({str(file)!r}, map_location="cpu", weights_only=True); w = w.get("state_dict", w)\n'
        "  w = {key: t.clone().contiguous() for key, t in w.items() if isinstance(t, torch.Tensor)}\n"
        f"  safetensors.torch.save_file(w, {str(file.with_suffix('.safetensors'))!r})"
    )


def converted(path: Path, folder: Path, variant: str | None = None) -> Path:
    """Returns `path`, or the converted copy of a pickle or of a folder of pickles.

    folder: folder for the copy: a .safetensors file of the same stem, or a folder of the same name whose other files
    are links. variant: as in `load_checkpoint`. Raises CheckpointError for a pickle that holds anything but weights, or
    that takes more memory or time than its size explains.

    >>> converted(Path("model.ckpt"), Path("scratch"))  # doctest: +SKIP
    """
    if path.is_dir():
        return converted_folder(path, folder, variant)
    if path.suffix.lower() not in PICKLES or not path.is_file():
        return path
    target = new_place(folder) / f"{path.stem}.safetensors"
    convert({path: target})
    return target


def converted_folder(path: Path, folder: Path, variant: str | None) -> Path:
    """`converted` for a folder: of a component, or of a whole checkpoint."""
    pickled = {inner: files for inner in (path, *components_in(path)) if (files := pickles_of(inner, variant))}
    if not pickled:
        return path
    copy = new_place(folder) / path.name
    wanted = dict[Path, Path]()
    for inner in dict.fromkeys((path, *pickled)):
        target = copy / inner.relative_to(path)
        target.mkdir(parents=True)
        for item in inner.iterdir():
            if item not in pickled and item.suffix not in PICKLES:
                (target / item.name).symlink_to(item.resolve())
        for stem, weights in pickled.get(inner, {}).items():
            wanted.update(targets_of(weights, target, stem))
    convert(wanted)
    return copy


def components_in(path: Path) -> list[Path]:
    """The component folders of a checkpoint, without the safety checker, which is not read."""
    text = ("text_encoder", "text_encoder_2", "prior_text_encoder")
    names = (*DENOISERS, "vae", *text, "image_encoder", "image_normalizer", "prior")
    return [path / name for name in names if (path / name).is_dir() and (path / "model_index.json").is_file()]


def pickles_of(folder: Path, variant: str | None) -> dict[str, WeightFiles]:
    """The pickles of a folder that have no .safetensors file, by the stem of their converted file."""
    found = {}
    for stem, pickled in PICKLED.items():
        if not found_in(folder, stem) and (files := found_in(folder, pickled, "bin")):
            found[stem] = chosen(folder, files, variant)
    return found


def targets_of(files: WeightFiles, target: Path, stem: str) -> dict[Path, Path]:
    """The converted file of each of a component's pickles in `target`; the index of shards is written."""
    if files.index is None:
        return {files.shards[0]: target / f"{stem}.safetensors"}
    names = {shard.name: f"{shard.stem}.safetensors" for shard in files.shards}
    places: Mapping[str, str] = json.loads(files.index.read_text(encoding="utf-8"))["weight_map"]
    index = {"weight_map": {key: names[place] for key, place in places.items()}}
    (target / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return {shard: target / names[shard.name] for shard in files.shards}


def new_place(folder: Path) -> Path:
    """A new folder in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / str(len(list(folder.iterdir())))
    place.mkdir()
    return place


def convert(targets: Mapping[Path, Path]) -> None:
    """Writes a .safetensors file from each pickle, in a separate process."""
    sizes = [file.stat().st_size for file in targets]
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    places = [f"{path.resolve()}" for pair in targets.items() for path in pair]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", unpickle.__file__, *places],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120 + sum(sizes) / 5_000_000,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{next(iter(targets))} takes too long to read for its size: it is damaged or made to do so"
        ) from error
    if done.returncode != 0:
        failed = next((file for file, target in targets.items() if not target.exists()), next(iter(targets)))
        raise CheckpointError(f"{failed} cannot be read: {reason(done.stderr, done.returncode)}")


def reason(stderr: str, status: int) -> str:
    """One line with the reason why a pickle could not be read."""
    for code in FULL:
        if os.strerror(code) in stderr:
            raise OSError(code, os.strerror(code))  # the disk of the converted files is full
    if "legacy .tar" in stderr:
        return "it is of torch's first format (tar), which is not read safely; save it anew with torch.save"
    if found := CODE.search(stderr):
        return f"it is no file of weights alone: it names {found[1]}, which would be run. Nothing was; do not trust it"
    if status < 0 or "allocate memory" in stderr or "MemoryError" in stderr:
        return "it asks for more memory or time than its size: it is damaged or made to do so"
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = next((line for line in lines if re.match(r"\w+(Error|Exception)?: ", line)), lines[-1] if lines else "")
    return f"{last[:200] or f'status {status}'}; fetch it again"
