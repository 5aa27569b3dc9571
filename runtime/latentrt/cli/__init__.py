"""Commands, one file each; each parses its options and calls one public function.

stdout is data, stderr is progress and errors. The exit status is 0, 2 for wrong usage, 130 for Ctrl-C, else that of the
error (see `latentrt.errors`). A command's module is imported when it is called, and imports nothing heavy at its top:
`--help` has to answer at once.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import sys

import click

from latentrt.cli.output import echo, open_streams, show_messages, silence
from latentrt.errors import LatentError, OutOfMemoryError, OutputError
from latentrt.extensions import COMMANDS as EXTENSIONS
from latentrt.version import VERSION

__all__ = [
    "COMMANDS",
    "cli",
    "completing",
    "engine_option",
    "file_options",
    "grouped",
    "lora_option",
    "main",
    "memory_option",
    "output",
    "parsing",
    "paths",
    "request_options",
    "show_option",
    "text_options",
]

INTERRUPTED = 130

COMMANDS = {
    "generate": "Generate pictures for a prompt.",
    "upscale": "Enlarge a picture by a super-resolution model.",
    "inpaint": "Paint the masked part of a picture anew.",
    "encode": "Encode a picture to latents.",
    "decode": "Decode latents to a picture.",
    "serve": "Serve pictures over HTTP.",
    "audio": "Turn a prompt or a spectrogram into sound, or sound into a spectrogram.",
    "export": "Export a Stable Diffusion checkpoint to a bundle.",
    "models": "List models that are there by name, or remove one.",
    "inspect": "Show a bundle's components, or a picture's settings.",
    "calibrate": "Quantize a bundle to INT8 with a measured loss.",
    "build": "Build TensorRT plans, or graphs optimised for this processor.",
    "step-cache": "Add a shallow UNet for step caching to a bundle.",
    "compare": "Compare the pictures of two bundles, in dB.",
    "presets": "Measure settings of a bundle that compute less.",
    "triton": "Add a bundle to a model repository of the Triton server.",
    "bench": "Time a bundle on this machine, phase by phase.",
    "estimate": "Estimate the least time and memory of a bundle on a device.",
    "verify": "Check the hash of every file of a bundle.",
    "sign": "Sign a picture with your certificate (C2PA).",
    "upgrade": "Rewrite a bundle's bundle.json in the newest format.",
    "doctor": "Show installed engines, and commands that install missing ones.",
}


HEADINGS = {
    "Make pictures and sound": ("generate", "upscale", "inpaint", "encode", "decode", "serve", "audio", "inspect"),
    "Make bundles": ("export", "models", "calibrate", "step-cache", "build", "upgrade", "triton"),
    "Measure and check": ("compare", "presets", "bench", "estimate", "verify", "sign", "doctor"),
}


class Commands(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; its module and its function have that name too, with underscores."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"{EXTENSIONS.get(cmd_name, 'latentrt.cli')}.{name}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name. Raises UsageError for none of them, with the one that looks like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0].lower(), COMMANDS, n=1)
            ctx.fail(f"{error.message} Did you mean {near[0]!r}?" if near else error.message)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands under headings, without importing them."""
        for heading, names in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, COMMANDS[name]) for name in names])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="%(prog)s %(version)s")
def cli() -> None:
    """Latent diffusion, exported once and run lean: no torch at run time.

    \b
    latentrt generate "a red apple" --seed 7     a picture by the built-in model, which knows 561 emoji
    latentrt generate "a castle" --bundle FILE   a picture by your own checkpoint, exported once
    latentrt export CHECKPOINT OUT               a bundle from it, with options
    latentrt COMMAND --help                      options of a command; more in docs/
    """


def main() -> None:
    """Runs the command line and exits with its status."""
    open_streams()
    show_messages()
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LatentError as error:
        echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:  # of click's own writing, for --help and --version
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        silence(sys.stdout)
        echo(f"error: stdout: cannot be written ({error.strerror})", err=True)
        sys.exit(OutputError.exit_status)
    except MemoryError as error:  # Python's, NumPy's or Pillow's, outside a run
        echo(
            f"error: out of memory ({str(error) or 'no more is given'}); ask for less, or close other programs",
            err=True,
        )
        sys.exit(OutOfMemoryError.exit_status)
    except (KeyboardInterrupt, click.Abort):
        echo("cancelled", err=True)
        sys.exit(INTERRUPTED)
