"""`latentrt audio`: a spectrogram becomes a sound, and a sound a spectrogram."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, print_json, progress_bar
from latentrt.errors import OutputError, RequestError

if TYPE_CHECKING:
    from latentrt.audio.parameters import Parameters

SOUND, PICTURES = ".wav", (".png", ".jpg", ".jpeg", ".webp")


def hertz_of(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """The two frequencies of "0,10000"."""
    if value is None:
        return None
    low, _, high = value.partition(",")
    if not (value.isascii() and low.isdecimal() and high.isdecimal()):
        raise click.BadParameter(f"got {value!r}, expected two whole numbers such as 0,10000")
    return int(low), int(high)


@click.command()
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--stereo", is_flag=True, default=None, help="Left in green, right in blue.")
@click.option("--bands", type=int, help="Rows of the picture.  [default: 512]")
@click.option("--hz", callback=hertz_of, metavar="LOW,HIGH", help="Frequencies of the rows.  [default: 0,10000]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first phases.")
@click.option("--iterations", type=int, default=32, show_default=True, help="Of Griffin and Lim's algorithm.")
@as_json
def audio(source: str, out: Path, as_json: bool, seed: int, iterations: int, **options: Any) -> None:
    """Make the sound of the spectrogram SOURCE, a picture, or the spectrogram of the sound SOURCE, a WAV file.

    Parameters that a picture carries in its EXIF hold unless they are given.
    """
    suffix = Path(source).suffix.lower()
    if suffix == SOUND:
        check_out(out, ".png")
        report = draw(Path(source), out, options)
    elif suffix in PICTURES:
        check_out(out, SOUND)
        report = play(source, out, options, seed=seed, iterations=iterations)
    else:
        raise RequestError(f"got {source!r}, expected a picture ({', '.join(PICTURES)}) or a {SOUND} file")
    if as_json:
        print_json(report)
    else:
        click.echo(out)


def check_out(out: Path, suffix: str) -> None:
    """Raises before anything is done where the result could not be written."""
    if out.suffix.lower() != suffix:
        raise RequestError(f"--out: got {out}, expected a name that ends in {suffix}")
    if not out.parent.is_dir():
        raise OutputError(f"--out: there is no folder {out.parent}; make it with `mkdir -p {out.parent}`")


def chosen(base: Parameters, stereo: bool | None, bands: int | None, hz: tuple[int, int] | None) -> Parameters:
    """`base` with what is given in its place."""
    low, high = hz or (None, None)
    given: dict[str, Any] = {"stereo": stereo, "bands": bands, "low_hz": low, "high_hz": high}
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def draw(source: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Writes the spectrogram of a WAV file; returns what `--json` prints."""
    from latentrt.audio import picture_from_sound
    from latentrt.audio.parameters import Parameters
    from latentrt.audio.wav import read_wav
    from latentrt.image import write_image

    parameters = chosen(Parameters(), **options)
    picture = picture_from_sound(read_wav(source), parameters)
    write_image(picture, out, format="PNG", exif=picture.getexif())
    return report(out, picture.width, parameters)


def play(source: str, out: Path, options: dict[str, Any], *, seed: int, iterations: int) -> dict[str, Any]:
    """Writes the sound of a picture; returns what `--json` prints."""
    from latentrt.audio import sound_from_picture
    from latentrt.audio.parameters import Parameters, parameters_from_exif
    from latentrt.audio.wav import write_wav
    from latentrt.image import open_image

    picture = open_image("picture", source)
    parameters = chosen(parameters_from_exif(picture.getexif()) or Parameters(), **options)
    with progress_bar("listening", iterations * parameters.channels) as advance:
        sound = sound_from_picture(picture, parameters, seed=seed, iterations=iterations, advance=advance)
    write_wav(out, sound)
    return report(out, picture.width, parameters)


def report(out: Path, columns: int, parameters: Parameters) -> dict[str, Any]:
    """What `--json` prints."""
    from dataclasses import asdict

    return {"file": str(out), "columns": columns, "seconds": (columns - 1) / 100, **asdict(parameters)}
