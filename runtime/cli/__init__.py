"""Commands, one file each; each parses its options and calls one public function.

stdout is data, stderr is progress and errors. The exit status is 0, 2 for wrong usage, 130 for Ctrl-C, else that of the
error (see `latentrt.errors`). Modules here import nothing heavy at the top: `--help` has to answer at once.
"""

from __future__ import annotations

import sys

import click

from latentrt.cli.doctor import doctor
from latentrt.cli.export import export
from latentrt.cli.generate import generate
from latentrt.cli.inspect import inspect
from latentrt.cli.verify import verify
from latentrt.errors import LatentError

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="latentrt", message="%(prog)s %(version)s")
def cli() -> None:
    """Latent diffusion, exported once and run lean: no torch at run time.

    \b
    latentrt generate "a red apple" --seed 7     a picture, with the built-in model
    latentrt export CHECKPOINT OUT               a checkpoint becomes a bundle
    latentrt doctor                              what is installed, what is missing
    """


for command in (generate, export, inspect, verify, doctor):
    cli.add_command(command)


def main() -> None:
    """Runs the command line and exits with its status."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LatentError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        click.echo("cancelled", err=True)
        sys.exit(INTERRUPTED)
