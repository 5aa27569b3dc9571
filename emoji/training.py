"""A training run that may be cut at any time: its state in one file, its curves in another, its rate by the step.

What a step draws is a function of the seed and the step's number (`generators`), on the CPU whatever trains, so a run
that was cut and goes on draws what it would have drawn: its state is weights, optimizers and averages, nothing else.

On a CPU, two processes of one thread are faster than one of two, and slow down less when something else runs:
`torchrun --nproc-per-node 2 -m emoji.STAGE` gives each a share of the batch and averages gradients. On an
NVIDIA GPU, one process computes in bfloat16 where autocast sees no harm, and others draw ahead of it.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.random import Generator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from emoji.fetch import FOLDER
from emoji.muon import Muon

SEED = 0
SAVE_SECONDS, LOG_SECONDS = 120.0, 10.0
WARM_STEPS = 50
OUTER = ("conv_in", "conv_out", "quant", "embedding")  # layers whose inputs or outputs are no features

Batch = tuple[Tensor, ...]
Draw = Callable[[int], Batch]
Step = Callable[[int, Batch], dict[str, float]]


class Stateful(Protocol):
    """What a run saves: modules, optimizers, averages."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class Drawn(Dataset[Batch]):
    """What every step draws, by the step's number."""

    draw: Draw

    def __getitem__(self, number: int) -> Batch:
        return self.draw(number)


@dataclass
class Training:
    """One stage of training: how long, at which rate, and what of it is saved.

    The rate rises over the first 50 steps, stays, and falls linearly to 0 over the last `tail` of them. So a run may be
    made longer until its tail begins; the state from before the tail is kept beside the last one.
    """

    name: str
    steps: int
    rate: float
    tail: float
    parts: dict[str, Stateful]
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    workers: int = 0  # processes that draw ahead; 0 draws between steps

    @property
    def path(self) -> Path:
        """Return where the state is."""
        return state_path(self.name)

    @property
    def tail_begins(self) -> int:
        """Return the number of the first step of the tail."""
        return round(self.steps * (1 - self.tail))

    def run(self, draw: Draw, step: Step) -> None:
        """Run the steps that are left: `step(number, draw(number))` sets gradients and returns what the log is to say.

        `draw` makes tensors on the CPU; the step gets them on the device.
        """
        first = self.resume()
        saved = logged = started = time.monotonic()
        means: dict[str, list[float]] = {}
        for number, batch in zip(range(first, self.steps), self.batches(draw, first), strict=True):
            if number == self.tail_begins:
                self.save(number, self.path.with_suffix(".tail.pt"))
            self.set_rate(number)
            for name, value in step(number, tuple(part.to(device()) for part in batch)).items():
                means.setdefault(name, []).append(value)
            average_gradients(self.optimizers)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            now = time.monotonic()
            if now - logged > LOG_SECONDS or number + 1 == self.steps:
                self.log(number + 1, now - started, {name: float(np.mean(some)) for name, some in means.items()})
                logged, means = now, {}
            if now - saved > SAVE_SECONDS:
                self.save(number + 1, self.path)
                saved = now
        self.save(self.steps, self.path)

    def batches(self, draw: Draw, first: int) -> DataLoader[Batch]:
        """Return what the steps from `first` on draw, in order."""
        forked = "fork" if self.workers else None  # what is drawn from stays where it is in memory
        return DataLoader(
            Drawn(draw),
            batch_size=None,
            sampler=range(first, self.steps),
            num_workers=self.workers,
            multiprocessing_context=forked,
        )

    def set_rate(self, number: int) -> None:
        """Give every optimizer the rate of this step."""
        left = (self.steps - number) / (self.steps * self.tail)
        rate = self.rate * min(1.0, (number + 1) / WARM_STEPS, left)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def save(self, number: int, path: Path) -> None:
        """Write the state, from the first process alone; the file is whole or not there."""
        if rank() > 0:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"step": number, "parts": state, "optimizers": optimizers}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self) -> int:
        """Return the number of steps done, from the saved state where there is one."""
        if not self.path.is_file():
            return 0
        state = filled(self.path, self.parts)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])

    def log(self, number: int, seconds: float, values: dict[str, float]) -> None:
        """Append a line to the log and print it; the first process speaks for all."""
        if rank() > 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rounded = {name: round(value, 5) for name, value in values.items()}
        line = {"step": number, "seconds": round(seconds, 1), **rounded}
        with self.path.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(self.name, " ".join(f"{name} {value}" for name, value in line.items()), flush=True)


def state_path(name: str) -> Path:
    """Return where the state of a stage is."""
    return FOLDER / "training" / f"{name}.pt"


def filled(path: Path, parts: dict[str, Stateful]) -> dict[str, Any]:
    """Fill the parts from a saved state, and return all of that."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device())
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return state


def load_parts(name: str, parts: dict[str, Stateful]) -> int:
    """Fill the parts of a finished or running stage from its saved state; return its number of steps.

    Raises FileNotFoundError, naming the command, when the stage has not run.
    """
    path = state_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run python -m emoji.{name}")
    return int(filled(path, parts)["step"])


def optimizers(*modules: nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for the inner matrices and convolutions, AdamW for all else.

    All else is vectors, embeddings, and the first and last layer.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            inner = parameter.ndim > 1 and not any(word in name for word in OUTER)
            (matrices if inner else others).append(parameter)
    return [Muon(matrices, lr=0.0), torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)]


def generators(stage: int, number: int) -> tuple[Generator, torch.Generator]:
    """Return the two generators of one step and process, NumPy's and torch's."""
    noise = torch.Generator().manual_seed((stage << 48) + (rank() << 40) + number)
    return np.random.default_rng((SEED, stage, number, rank())), noise


def device() -> torch.device:
    """Return what computes."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arithmetic() -> contextlib.AbstractContextManager[Any]:
    """Return the context of a step's forward pass: bfloat16 where it does no harm, but float32 on a CPU.

    A processor without instructions for bfloat16 is four times slower in it.
    """
    return torch.autocast("cuda", torch.bfloat16) if device().type == "cuda" else contextlib.nullcontext()


def rank() -> int:
    """Return the number of this process among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(batch: int) -> int:
    """Return how much of a batch is this process's."""
    return batch // (dist.get_world_size() if dist.is_initialized() else 1)


def average_gradients(some: list[torch.optim.Optimizer]) -> None:
    """Give every process the mean of all processes' gradients."""
    if not dist.is_initialized():
        return
    groups = [group for optimizer in some for group in optimizer.param_groups]
    gradients = [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def arguments(description: str, steps: int = 0, batch: int = 0) -> argparse.Namespace:
    """Return the arguments that every stage takes: `steps`, `batch`, `threads`, `workers`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help="length of the whole run, done steps included")
    parser.add_argument("--batch", type=int, default=batch, help="examples a step")
    parser.add_argument("--threads", type=int, default=2, help="of each process; 1 under torchrun")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw ahead, worth it with a GPU")
    given = parser.parse_args()
    together = "WORLD_SIZE" in os.environ
    if together:
        dist.init_process_group("gloo")
    torch.set_num_threads(1 if together else given.threads)
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")  # TF32, on GPUs alone
    torch.backends.cudnn.benchmark = True
    return given
