"""`latentrt doctor`: engines, GPUs, memory and packages of this machine, and how to install missing ones."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import click

from latentrt.cli.output import as_json, echo, print_json


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Show engines, GPUs, memory, packages and built-in models, and commands that install what is missing.

    Exit status 4 if no engine can be used.
    """
    from latentrt.bench.diagnosis import diagnose

    found = diagnose()
    if as_json:
        print_json(found)
    else:
        print_table(found)
    if not any(engine["usable"] for engine in found["engines"].values()):
        raise click.exceptions.Exit(4)


def print_jetson(jetson: dict[str, Any]) -> None:
    """Prints the facts of a Jetson, and the models that fit its memory."""
    mode, blocks = jetson["power_mode"], jetson["free_blocks"]
    echo(f"jetson      {jetson['model']}" + (f" ({jetson['module']})" if jetson["module"] else ""))
    echo(f"jetpack     {jetson['jetpack'] or 'unknown'}, L4T {jetson['l4t'] or 'unknown'}")
    echo(f"cuda        {jetson['cuda'] or 'not installed'}")
    echo(f"tensorrt    {jetson['tensorrt'] or 'not installed'}")
    if mode:
        echo(f"power       mode {mode['id']}" + (f", {mode['name']}" if mode["name"] else ""))
    if blocks:
        echo(f"free block  {blocks['count']} of {blocks['bytes'] / 2**20:g} MB, the largest")
    for area in jetson["swap"]:
        kind = "compressed memory" if area["compressed"] else "disk"
        echo(f"swap        {area['name']}: {area['bytes'] / 1e9:.1f} GB of {kind}")
    for model, rows in groupby(jetson["fits"], key=itemgetter("model")):
        echo(f"model       {model}: {', '.join(map(need, rows))}")


def need(row: dict[str, Any]) -> str:
    """The least memory of a model in one precision, and whether that much is free."""
    return f"{row['precision']} needs {row['needs_gb']:g} GB and {'fits' if row['fits'] else 'does not fit'}"


def print_gpu(gpu: dict[str, Any]) -> None:
    """Prints the GPUs and their driver, or why none can be used."""
    for name in gpu["gpus"]:
        echo(f"gpu         {name}")
    if gpu["cuda"]:
        echo(f"driver      {gpu['driver'] or 'unknown version'}, CUDA {gpu['cuda']} at most")
    if gpu["problem"]:
        echo(f"gpu         none can be used: {gpu['problem']}")


def auto_text(auto: dict[str, Any]) -> str:
    """The engine that `--engine auto` stands for on this machine."""
    names, variable = auto["engines"], auto["LATENTRT_ENGINE"]
    if not names:
        return "no engine for a CPU is installed" if variable in (None, "auto") else f"{variable} is not installed"
    if variable not in (None, "auto"):
        return f"{names[0]}, named by LATENTRT_ENGINE"
    if len(names) == 1:
        return f"{names[0]}, the only installed engine for a CPU"
    return f"the fastest of {', '.join(names)}, measured when a model is first loaded"


def print_table(found: dict[str, Any]) -> None:
    """Prints the diagnosis, one fact per line."""
    memory = found["memory"]
    echo(f"latentrt    {found['latentrt']}")
    echo(f"python      {found['python']} on {found['platform']}")
    echo(f"cores       {found['cores']} usable")
    if memory:
        echo(f"memory      {memory['available_bytes'] / 1e9:.1f} of {memory['total_bytes'] / 1e9:.1f} GB free")
    print_gpu(found["gpu"])
    if found["jetson"]:
        print_jetson(found["jetson"])
    for name, engine in found["engines"].items():
        package = [f"{engine['package']} {engine['version']}"] if engine["installed"] else []
        problem = [f"not usable, {engine['problem']}" if package else engine["problem"]] if engine["problem"] else []
        echo(f"engine      {name}: {', '.join([*package, *problem])}")
    echo(f"engine      auto: {auto_text(found['auto'])}")
    for choice in found["fastest"]:
        measured = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in choice["seconds"].items())
        echo(f"engine      auto: {choice['engine']} for {choice['model']} ({measured} per picture)")
    for name, version in found["packages"].items():
        echo(f"package     {name}: {version or 'not installed'}")
    echo(f"models      {', '.join(found['models']) or 'none'}")
    for line in found["advice"]:
        echo(f"advice      {line}")
