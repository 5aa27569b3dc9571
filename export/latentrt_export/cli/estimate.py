"""`latentrt estimate`: lower bounds of time and estimates of memory of a bundle on devices that are not here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, echo, extra_of, print_json
from latentrt.cli.parsing import size_of
from latentrt.cli.paths import bundle_argument
from latentrt.cli.request_options import STEP_CACHE, request_options
from latentrt.errors import RequestError

if TYPE_CHECKING:
    from latentrt_export.estimate.devices import Device
    from latentrt_export.estimate.estimate import Call


@click.command()
@bundle_argument("bundle")
@click.option(
    "--device", "names", multiple=True, metavar="NAME", help="Device, see the list above; repeatable.  [default: all]"
)
@click.option("--size", callback=size_of, metavar="WxH", help="Picture size in pixels.  [default: the bundle's]")
@click.option("--steps", type=int, help="Denoising steps.  [default: the bundle's]")
@click.option("--guidance", type=float, metavar="G", help="Guidance scale; 1 halves the work.  [default: the bundle's]")
@request_options(STEP_CACHE)
@click.option("--batch", type=int, default=1, show_default=True, help="Pictures per request.")
@as_json
def estimate(
    bundle: str,
    names: tuple[str, ...],
    size: tuple[int, int] | None,
    as_json: bool,
    **request: Any,
) -> None:
    """Estimate time and memory of BUNDLE, a bundle's folder or the name of a built-in model, without the device.

    \b
    Jetson:  orin-nano, orin-nano-15w, orin-nx, agx-orin, thor
    GPUs:    rtx4090, rtx5090, rtx6000-ada, l40s, a100, h100, h200

    \b
    latentrt estimate my-bundle --device orin-nano --size 512x512 --steps 20

    Times are lower bounds, at fp32, fp16, int8 and w4: the multiply-adds and bytes of every layer, divided by the
    device's peak rates. Real engines took 2 to 4 times as long (docs/estimate.md). At int8 the UNet is quantized, at w4
    the denoiser's and text encoders' weights. Needs `pip install 'latentrt[cpu,export]'`.
    """
    with extra_of("estimate"):
        from latentrt_export.estimate.devices import DEVICES
        from latentrt_export.estimate.estimate import calls_of
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle
    from latentrt.pipeline.load import check_complete, completed
    from latentrt.request.request import Request
    from latentrt.request.settings import resolve

    if unknown := set(names) - DEVICES.keys():
        raise RequestError(f"device: got {', '.join(sorted(unknown))}, expected of {', '.join(DEVICES)}")
    opened = open_bundle(folder_of(bundle), verify=False)
    check_complete(opened)
    width, height = size or (None, None)
    settings = resolve(completed(Request("", width=width, height=height, **request), opened.manifest), opened.manifest)
    calls = calls_of(opened, settings)
    devices = {name: DEVICES[name] for name in names or DEVICES}
    if as_json:
        print_json(report(calls, devices))
    else:
        echo(f"{opened.manifest.name}  {settings.width}x{settings.height}, {settings.steps} steps")
        echo("\n".join([*graph_lines(calls), *device_lines(calls, devices)]))


def report(calls: dict[str, Call], devices: dict[str, Device]) -> dict[str, Any]:
    """The estimates as JSON: seconds and bytes."""
    from latentrt_export.estimate.estimate import estimate
    from latentrt_export.estimate.roofline import PRECISIONS

    graphs = {
        name: {
            "calls": call.times,
            "macs": call.cost.macs,
            "parameters": call.cost.parameters,
            "live_elements": call.cost.activation_elements,
            "work": [{"count": count, **asdict(work)} for work, count in call.cost.work.items()],
        }
        for name, call in calls.items()
    }
    estimates = []
    for name, device in devices.items():
        for precision in PRECISIONS:
            found = estimate(calls, precision, device)
            step = {**asdict(found.step), "binds": found.step.binds}
            figures = asdict(found)
            figures["live_bytes"] = figures.pop("activation_bytes")  # the key that it has had from the start
            estimates.append({"device": name, "precision": precision, **figures, "step": step, "fits": found.fits})
    return {"graphs": graphs, "devices": {name: asdict(one) for name, one in devices.items()}, "estimates": estimates}


def graph_lines(calls: dict[str, Call]) -> Iterator[str]:
    """Lines with the work of each graph, by kind of layer."""
    yield ""
    yield f"{'graph':14}{'calls':>6}{'layers':>12}{'number':>8}{'GMAC':>10}{'weights M':>11}{'activations M':>15}"
    for name, call in calls.items():
        label = f"{name:14}{call.times:6}"
        for kind in ("conv", "linear", "attention"):
            work = [(one, count) for one, count in call.cost.work.items() if one.kind == kind]
            if not work:
                continue
            number = sum(count for _, count in work)
            macs = sum(count * one.macs for one, count in work)
            weights = sum(count * one.weights for one, count in work)
            moved = sum(count * (sum(one.reads) + one.writes) for one, count in work)
            yield f"{label:20}{kind:>12}{number:8}{macs / 1e9:10.2f}{weights / 1e6:11.2f}{moved / 1e6:15.2f}"
            label = ""


def device_lines(calls: dict[str, Call], devices: dict[str, Device]) -> Iterator[str]:
    """One line per device and precision."""
    from latentrt_export.estimate.estimate import estimate
    from latentrt_export.estimate.roofline import PRECISIONS

    yield ""
    yield (
        f"{'device':14}{'precision':10}{'ms/step':>10}{'bound by':>10}{'s/run':>10}{'weights GB':>11}"
        f"{'needs GB':>10}{'has GB':>8}  fits"
    )
    for name, device in devices.items():
        for precision in PRECISIONS:
            found = estimate(calls, precision, device)
            yield (
                f"{name:14}{precision:10}{found.step.seconds * 1e3:10.3f}{found.step.binds:>10}{found.seconds:10.3f}"
                f"{found.weight_bytes / 1e9:11.2f}{found.least_bytes / 1e9:10.2f}{found.room_bytes / 1e9:8.1f}  "
                f"{found.fits}"
            )
    yield "Times are lower bounds, and no device was measured. Needs: one graph at a time, and 0.5 GB for CUDA."
