"""`latentrt audio`: sound from a spectrogram or a prompt, and spectrograms from sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.errors import RequestError
from latentrt.validate import whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.audio.parameters import Parameters
    from latentrt.request.request import Request

MOST_CLIPS = 500
SOUND, PICTURES = ".wav", (".png", ".jpg", ".jpeg", ".webp")
GROUPS = {
    "Most used": ("out", "bundle", "seed"),
    "Spectrogram": ("stereo", "bands", "hz", "iterations"),
    "With --bundle": (
        *("clips", "to_prompt", "to_seed", "columns", "negative", "steps", "guidance", "init", "strength", "engine"),
    ),
}


def hertz_of(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """The lowest and the highest frequency from "0,10000"."""
    if value is None:
        return None
    low, _, high = value.partition(",")
    if not (value.isascii() and low.isdecimal() and high.isdecimal()):
        raise click.BadParameter(f"got {value!r}, expected two whole numbers such as 0,10000")
    return int(low), int(high)


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("source")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="File to write: a sound (.wav), or a spectrogram (.png).",
)
@click.option("--stereo", is_flag=True, default=None, help="Two channels: left in green, right in blue.")
@click.option("--bands", type=int, metavar="N", help="Mel bands, one per row of the picture.  [default: 512]")
@click.option(
    "--hz", callback=hertz_of, metavar="LOW,HIGH", help="Lowest and highest frequency in Hz.  [default: 0,10000]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sound's phases and of the pictures.")
@click.option(
    "--iterations", type=int, metavar="N", default=32, show_default=True, help="Iterations of Griffin-Lim's algorithm."
)
@click.option(
    "--bundle", metavar="MODEL", help="Model that generates the spectrogram of a prompt: bundle's folder or checkpoint."
)
@click.option("--clips", type=int, metavar="N", default=1, show_default=True, help="Pictures, joined to one sound.")
@click.option("--to-prompt", metavar="TEXT", help="Prompt of the last clip; prompts between are blended.")
@click.option("--to-seed", type=int, help="Seed of the last clip; noise between is interpolated.")
@click.option("--columns", type=int, metavar="N", help="Columns of a clip, 10 ms each.  [default: the bundle's width]")
@click.option("--negative", default="", metavar="TEXT", help="Negative prompt: sounds to avoid.")
@click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the bundle's]")
@click.option("--guidance", type=float, metavar="G", help="Guidance scale; 1 is off.  [default: the bundle's]")
@click.option("--init", metavar="IMG", help="Spectrogram that every clip starts from.")
@click.option("--strength", type=float, metavar="F", help="Share of the steps taken from --init.  [default: 0.8]")
@engine_option()
@as_json
def audio(
    source: str,
    out: Path,
    as_json: bool,
    seed: int,
    iterations: int,
    stereo: bool | None,
    bands: int | None,
    hz: tuple[int, int] | None,
    bundle: str | None,
    engine: str,
    **request_options: Any,
) -> None:
    """Convert between sound and spectrogram pictures, as Riffusion does.

    Without --bundle, SOURCE is a file; with --bundle, it is a prompt.

    \b
    Picture to sound: SOURCE is a .png, .jpg or .webp file, --out a .wav file.
    Sound to picture: SOURCE is a .wav file, --out a .png file.
    Prompt to sound: the bundle generates a spectrogram, --out is a .wav file.

    \b
    latentrt audio clip.png --out clip.wav
    latentrt audio clip.wav --out clip.png --stereo
    latentrt audio "jazz" --bundle riffusion --out jazz.wav

    A picture's EXIF sets --stereo, --bands and --hz unless you give them. docs/audio.md says more.
    """
    options = {"stereo": stereo, "bands": bands, "hz": hz}
    suffix = Path(source).suffix.lower()
    if bundle is not None:
        check_out(out, SOUND)
        picture, parameters = generated(source, bundle, engine, options, seed=seed, **request_options)
        report = play(picture, parameters, out, seed=seed, iterations=iterations)
    elif suffix == SOUND:
        check_out(out, ".png")
        report = draw(Path(source), out, options)
    elif suffix in PICTURES:
        check_out(out, SOUND)
        picture, parameters = opened(source, options)
        report = play(picture, parameters, out, seed=seed, iterations=iterations)
    else:
        kinds = f"a picture ({', '.join(PICTURES)}) or a {SOUND} file"
        raise RequestError(f"got {source!r}, expected {kinds}; for a prompt, name a bundle with --bundle")
    if as_json:
        print_json(report)
    else:
        echo(out)


def check_out(out: Path, suffix: str) -> None:
    """Raises RequestError for another suffix of --out, OutputError for what cannot be written, before any work."""
    from latentrt.storage.atomic import check_writable

    if out.suffix.lower() != suffix:
        raise RequestError(f"--out: got {out}, expected a name that ends in {suffix}")
    check_writable(out, option="--out")


def with_options(base: Parameters, stereo: bool | None, bands: int | None, hz: tuple[int, int] | None) -> Parameters:
    """`base` with the options that were given."""
    low, high = hz or (None, None)
    values: dict[str, Any] = {"stereo": stereo, "bands": bands, "low_hz": low, "high_hz": high}
    return replace(base, **{name: value for name, value in values.items() if value is not None})


def draw(source: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Writes the spectrogram of a WAV file; returns the object that `--json` prints."""
    from latentrt.audio import picture_from_sound
    from latentrt.audio.parameters import Parameters
    from latentrt.audio.wav import read_wav
    from latentrt.images.pillow import write_image

    parameters = with_options(Parameters(), **options)
    picture = picture_from_sound(read_wav(source), parameters)
    write_image(picture, out, format="PNG", exif=picture.getexif())
    return report(out, picture.width, parameters)


def opened(source: str, options: dict[str, Any]) -> tuple[Image, Parameters]:
    """The picture in a file, and its parameters from its EXIF and the options."""
    from latentrt.audio.parameters import Parameters, parameters_from_exif
    from latentrt.images.load import open_image

    picture = open_image("picture", source)
    return picture, with_options(parameters_from_exif(picture.getexif()) or Parameters(), **options)


def generated(
    prompt: str, bundle: str, engine: str, options: dict[str, Any], **request_options: Any
) -> tuple[Image, Parameters]:
    """The spectrogram that a bundle generates for a prompt, all clips side by side, and its parameters."""
    from latentrt.audio.parameters import Parameters
    from latentrt.audio.picture import check_columns, joined
    from latentrt.cli.generate import finished
    from latentrt.pipeline.load import load

    parameters = with_options(Parameters(), **options)
    requests = clips_of(prompt, parameters.bands, **request_options)
    with load(bundle, engine=engine) as pipeline:
        runs = [pipeline.steps(request) for request in requests]  # all are checked before the first picture is made
        check_columns(sum(run.settings.width for run in runs))
        return joined([finished(run).images[0] for run in runs]), parameters


def clips_of(
    prompt: str, bands: int, columns: int | None, clips: int, to_prompt: str | None, to_seed: int | None, **options: Any
) -> list[Request]:
    """One request per clip, from the first prompt and seed to the last."""
    from latentrt.request.interpolation import between
    from latentrt.request.request import Request

    first = Request(prompt, width=columns, height=bands, **options)
    ends: dict[str, Any] = {
        name: value for name, value in (("prompt", to_prompt), ("seed", to_seed)) if value is not None
    }
    if clips == 1 and not ends:
        return [first]
    return between(first, replace(first, **ends), whole("clips", clips, 2, MOST_CLIPS))


def play(picture: Image, parameters: Parameters, out: Path, *, seed: int, iterations: int) -> dict[str, Any]:
    """Writes the sound of a picture; returns the object that `--json` prints."""
    from latentrt.audio import sound_from_picture
    from latentrt.audio.wav import write_wav

    with progress_bar("listening", iterations * parameters.channels) as advance:
        sound = sound_from_picture(picture, parameters, seed=seed, iterations=iterations, advance=advance)
    write_wav(out, sound)
    return report(out, picture.width, parameters)


def report(out: Path, columns: int, parameters: Parameters) -> dict[str, Any]:
    """The object that `--json` prints."""
    from dataclasses import asdict

    return {"file": str(out), "columns": columns, "seconds": (columns - 1) / 100, **asdict(parameters)}
