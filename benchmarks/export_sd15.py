"""Exports a checkpoint of Stable Diffusion 1.5's shape and prints time, peak memory and fidelity as Markdown.

    python -m benchmarks.export_sd15 [--work DIR] [fp32] [fp16] [w16]

The checkpoint has random weights and is written once (4.3 GB). Peak memory is the operating system's figure for the
whole `latentrt export` process, shown also relative to the bytes of the UNet's weights in the exported file.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from latentrt.bundle.folder import open_bundle

ROOT = Path(__file__).parents[1]
UNET_FLOAT32_BYTES = 859_520_964 * 4


def run_measured(command: list[str], stdout: IO[str] | None = None) -> tuple[float, int]:
    """Seconds and peak resident bytes of one process.

    Linux counts the memory of the process that starts another one as that one's own. Raises RuntimeError if the peak
    could be the caller's, and if the process fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=stdout)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    seconds, own = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if usage.ru_maxrss <= own:
        raise RuntimeError(f"{command[0]}: its peak is hidden by this process's own, {own / 1e6:.2f} GB")
    return seconds, usage.ru_maxrss * 1024


def row(checkpoint: Path, work: Path, precision: str) -> str:
    """Exports at one precision. Returns a row of the table."""
    out = work / precision
    shutil.rmtree(out, ignore_errors=True)
    export = [sys.executable, "-m", "latentrt", "export", str(checkpoint), str(out), "--precision", precision]
    seconds, peak = run_measured(export)
    manifest = open_bundle(out).manifest
    size = sum(record.bytes for record in manifest.files.values())
    unet = manifest.components["unet"].fidelity
    psnr = min(c.fidelity.psnr_db for c in manifest.components.values() if c.fidelity.psnr_db is not None)
    return (
        f"| {precision} | {seconds:.0f} | {peak / 1e9:.1f} | {peak / UNET_FLOAT32_BYTES:.2f} | {size / 1e9:.2f} "
        f"| {unet.relative_error:.1e} | {psnr:.1f} |"
    )


def main() -> None:
    """Makes the checkpoint, exports it at each precision, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precisions", nargs="*", default=["fp32", "fp16", "w16"])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sd15")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.work / "sd15.safetensors"
    if not checkpoint.exists():
        run_measured([sys.executable, "-m", "benchmarks.checkpoint", str(checkpoint)])
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    print("| precision | s | peak GB | peak / UNet fp32 weights | bundle GB | UNet relative error | lowest PSNR, dB |")
    print("|---|---|---|---|---|---|---|")
    for precision in arguments.precisions:
        print(row(checkpoint, arguments.work, precision), flush=True)


if __name__ == "__main__":
    main()
