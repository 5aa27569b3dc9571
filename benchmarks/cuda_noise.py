"""Compares latentrt's emulation of CUDA noise with the GPU itself. Needs torch with CUDA and an NVIDIA GPU.

    python -m benchmarks.cuda_noise [--seeds 50]

For each shape, prints the number of values that differ from `torch.randn(..., device="cuda")` and the largest
difference, over all seeds and two successive draws. The exit status is 1 if any difference is above 1e-5.
"""

import argparse
import sys

import numpy as np
import torch

from latentrt.sampling.noise.torch_cuda import PhiloxGenerator

SHAPES = ((1,), (4, 16, 16), (4, 64, 64), (3, 4, 96, 64), (1, 4, 128, 128), (2, 4, 256, 256), (1_000_003,))
LARGEST = 1e-5


def main() -> None:
    """Compare, and print a row per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: torch finds no NVIDIA GPU; run this on a machine with one")
    gpu = torch.cuda.get_device_properties(0)
    threads = gpu.multi_processor_count * (gpu.max_threads_per_multi_processor // 256) * 256
    print(f"{gpu.name}, {threads} threads, torch {torch.__version__}, {given.seeds} seeds, two draws each\n")
    print("| shape | values | not equal | largest difference |\n|---|---|---|---|")
    worst = [row(shape, given.seeds, threads) for shape in SHAPES]
    sys.exit(1 if max(worst) > LARGEST else 0)


def row(shape: tuple[int, ...], seeds: int, threads: int) -> float:
    """Print one shape's row and return its largest difference."""
    pairs = [pair for seed in range(seeds) for pair in drawn(shape, seed * 1_000_003, threads)]
    errors = np.concatenate([np.abs(ours - theirs).ravel() for ours, theirs in pairs])
    print(f"| {shape} | {errors.size:,} | {np.count_nonzero(errors) / errors.size:.1%} | {errors.max():.2g} |")
    return float(errors.max())


def drawn(shape: tuple[int, ...], seed: int, threads: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return two successive draws of a seed, each from latentrt and from the GPU."""
    ours, theirs = PhiloxGenerator(seed, threads=threads), torch.Generator("cuda").manual_seed(seed)
    return [(ours.randn(shape), torch.randn(shape, generator=theirs, device="cuda").cpu().numpy()) for _ in range(2)]


if __name__ == "__main__":
    main()
