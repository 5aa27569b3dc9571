"""`latentrt serve`: pictures over HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import echo, extra_of
from latentrt.errors import RequestError

BUILT_IN = "emoji"
GROUPS = {
    "Models": ("models", "engine", "lora_dir", "memory", "idle"),
    "Listening": ("host", "port", "api_key", "allowed_host", "origin"),
    "Queue": ("queue", "batch", "batch_wait", "keep", "drain"),
    "Limits of a request": ("max_pixels", "max_steps", "max_pictures", "max_prompt", "max_body", "max_image_pixels"),
    "Signing of pictures": ("sign_certificate", "sign_key"),
    "Logs": ("log", "log_level"),
}
Decorator = Callable[[Any], Any]
PEM = click.Path(path_type=Path, dir_okay=False, exists=True)


def number(name: str, default: float | None, help: str, metavar: str = "N", kind: Any = int) -> Decorator:
    """An option that holds a number."""
    return click.option(name, type=kind, default=default, metavar=metavar, show_default=default is not None, help=help)


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option("--models", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of bundles.")
@engine_option()
@click.option(
    "--lora-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="LoRA files for prompts."
)
@number("--memory", None, "Memory of all loaded models.  [default: no limit]", "GB", float)
@number("--idle", None, "Seconds after which an unused model is unloaded.  [default: never]", "S", float)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@number("--port", 8188, "Port to listen on.", "PORT")
@click.option(
    "--api-key",
    multiple=True,
    envvar="LATENTRT_API_KEY",
    metavar="KEY",
    help="Key that clients must present; repeatable. Also LATENTRT_API_KEY.",
)
@click.option("--allowed-host", multiple=True, metavar="NAME", help="Further name that requests may ask for.")
@click.option("--origin", multiple=True, metavar="URL", help="Page of another server that may ask; repeatable.")
@number("--queue", 8, "Jobs that may wait.")
@number("--batch", 4, "Pictures drawn together.")
@number("--batch-wait", 0.02, "Seconds that a picture's step waits for others.", "S", float)
@number("--keep", 600, "Seconds that a finished job's pictures are kept.", "S", float)
@number("--drain", 20, "Seconds to finish jobs in, when told to stop.", "S", float)
@number("--max-pixels", 2048 * 2048, "Pixels of a picture.")
@number("--max-steps", 150, "Steps of a request.")
@number("--max-pictures", 4, "Pictures per request.")
@number("--max-prompt", 10_000, "Characters of a prompt.")
@number("--max-body", 32_000_000, "Bytes of a request.")
@number("--max-image-pixels", 4096 * 4096, "Pixels of an image that a client sends.")
@click.option("--sign-certificate", type=PEM, metavar="CHAIN.pem", help="Your certificate, then its issuers'.")
@click.option("--sign-key", type=PEM, metavar="KEY.pem", help="Its private key, without a password.")
@click.option("--log", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the logs.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info", show_default=True)
def serve(bundles: tuple[str, ...], models: Path | None, host: str, port: int, **options: Any) -> None:
    """Serve BUNDLES over HTTP: folders, checkpoints, or names in `latentrt models`; without any, the model "emoji".

    \b
    latentrt serve
    latentrt serve my-bundle --api-key SECRET
    latentrt serve --models bundles/ --memory 12 --idle 300

    A page at /, OpenAI's interface at /v1/images, AUTOMATIC1111's at /sdapi/v1, jobs at /v1/jobs, all of them described
    at /docs. docs/serving.md says more. Needs `pip install 'latentrt[serve]'`.
    """
    with extra_of("serve", "serve"):
        from latentrt_serve.logs import set_up
        from latentrt_serve.run import run
    check_address(host, options["api_key"])
    set_up(options["log"], options["log_level"])
    sign_with(options["sign_certificate"], options["sign_key"])
    folders = folders_of(bundles, models)
    server = server_of(folders, host, options)
    echo(f"serving {', '.join(folders)} at http://{host}:{port}", err=True)
    run(server, host, port, options["drain"])


def server_of(folders: dict[str, str], host: str, options: dict[str, Any]) -> Any:
    """The server of these bundles. Raises BundleError for one that is damaged, RequestError for a wrong option."""
    from latentrt_serve.guard import known_hosts
    from latentrt_serve.limits import Limits
    from latentrt_serve.room import Room
    from latentrt_serve.server import Server
    from latentrt_serve.shelf import ModelOptions, shelf_of
    from latentrt_serve.store import Store

    for name in ("queue", "batch", *(f"max_{one.name}" for one in fields(Limits))):
        if options[name] < 1:
            raise RequestError(f"--{name.replace('_', '-')}: got {options[name]}, expected at least 1")
    memory = options["memory"]
    known = ModelOptions(
        options["engine"],
        options["batch"],
        options["batch_wait"],
        None if memory is None else int(memory * 1e9),
        options["idle"],
        options["lora_dir"],
    )
    limits = Limits(**{one.name: options[f"max_{one.name}"] for one in fields(Limits)})
    hosts = () if is_any(host) and not options["allowed_host"] else known_hosts(host, options["allowed_host"])
    room = Room(shelf_of(folders, known), options["queue"])
    return Server(room, limits, Store(options["keep"]), options["api_key"], hosts, options["origin"])


def sign_with(certificate: Path | None, key: Path | None) -> None:
    """Has all pictures signed; none without both files. Raises RequestError for one of them, or for wrong ones."""
    from latentrt.images.credentials import Signer
    from latentrt_serve.encode import SIGNING

    if (certificate is None) != (key is None):
        raise RequestError("--sign-certificate, --sign-key: got one of them, expected both or none")
    if certificate and key:
        SIGNING.signer = Signer(certificate, key)


def folders_of(bundles: tuple[str, ...], models: Path | None) -> dict[str, str]:
    """The bundles by the names of their folders or files, as clients call them. Raises RequestError for two alike."""
    from latentrt.bundle.checkpoint import is_checkpoint, name_of

    found = [*bundles, *(map(str, bundles_in(models)) if models else [])] or [BUILT_IN]
    names = [name_of(Path(one)) if is_checkpoint(Path(one)) else Path(one).resolve().name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"bundles: got two of the name {name!r}, expected folders of different names")
    return dict(zip(names, found, strict=True))


def bundles_in(folder: Path) -> list[Path]:
    """The bundles in a folder, but not what a killed export has left. Raises RequestError for none."""
    found = sorted(path.parent for path in folder.glob("[!.]*/bundle.json"))
    if not found:
        raise RequestError(f"--models: got {folder}, which has no bundle; make one with `latentrt export`")
    return found


def check_address(host: str, keys: tuple[str, ...]) -> None:
    """Raises RequestError for an address that others reach, without a key."""
    if not is_loopback(host) and not keys:
        raise RequestError(
            f"--host: got {host}, which others can reach, without a key; give --api-key, or listen on 127.0.0.1 behind "
            "a proxy"
        )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_any(host: str) -> bool:
    """Whether an address stands for all of the machine's."""
    return host in ("0.0.0.0", "::")
