"""`latentrt audio`: a spectrogram or a prompt becomes a sound, and a sound a spectrogram."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.errors import OutputError, RequestError
from latentrt.validate import whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.audio.parameters import Parameters
    from latentrt.request.request import Request

MOST_CLIPS = 500
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
@click.option("--seed", type=int, default=0, show_default=True, help="Of the picture and the first phases.")
@click.option("--iterations", type=int, default=32, show_default=True, help="Of Griffin and Lim's algorithm.")
@click.option("--bundle", metavar="DIR", help="Take SOURCE for a prompt: this model paints the spectrogram.")
@click.option("--clips", type=int, default=1, show_default=True, help="How many pictures, joined to one sound.")
@click.option("--to-prompt", metavar="TEXT", help="What the last clip shows; those between, mixtures.")
@click.option("--to-seed", type=int, help="The last clip's seed.")
@click.option("--columns", type=int, help="Of a clip, 10 ms each.  [default: the bundle's width]")
@click.option("--negative", default="", metavar="TEXT", help="What should not be heard.")
@click.option("--steps", type=int, help="How many denoising steps.")
@click.option("--guidance", type=float, help="How much the prompt counts.")
@click.option("--init", metavar="IMG", help="A spectrogram that every clip starts from.")
@click.option("--strength", type=float, metavar="F", help="Share of the steps taken from there.  [default: 0.8]")
@click.option("--engine", default="auto", metavar="NAME", show_default=True, help="What runs the graphs.")
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
    **painting: Any,
) -> None:
    """Make the sound of SOURCE, a spectrogram in a picture, or the spectrogram of SOURCE, a WAV file.

    With --bundle SOURCE is a prompt, and the sound that of the picture painted for it. Parameters that a picture
    carries in its EXIF hold unless they are given.
    """
    options = {"stereo": stereo, "bands": bands, "hz": hz}
    suffix = Path(source).suffix.lower()
    if bundle is not None:
        check_out(out, SOUND)
        picture, parameters = painted(source, bundle, engine, options, seed=seed, **painting)
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
        raise RequestError(f"got {source!r}, expected {kinds}; for a prompt, name a model with --bundle")
    if as_json:
        print_json(report)
    else:
        echo(out)


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
    from latentrt.images.pillow import write_image

    parameters = chosen(Parameters(), **options)
    picture = picture_from_sound(read_wav(source), parameters)
    write_image(picture, out, format="PNG", exif=picture.getexif())
    return report(out, picture.width, parameters)


def opened(source: str, options: dict[str, Any]) -> tuple[Image, Parameters]:
    """The picture in a file, and what it says of itself."""
    from latentrt.audio.parameters import Parameters, parameters_from_exif
    from latentrt.images.load import open_image

    picture = open_image("picture", source)
    return picture, chosen(parameters_from_exif(picture.getexif()) or Parameters(), **options)


def painted(
    prompt: str, bundle: str, engine: str, options: dict[str, Any], **painting: Any
) -> tuple[Image, Parameters]:
    """The picture that a bundle paints for a prompt, its clips side by side."""
    from latentrt.audio.parameters import Parameters
    from latentrt.audio.picture import check_columns, joined
    from latentrt.cli.generate import finished
    from latentrt.pipeline.load import load

    parameters = chosen(Parameters(), **options)
    wanted = clips_of(prompt, parameters.bands, **painting)
    with load(bundle, engine=engine) as pipeline:
        runs = [pipeline.steps(request) for request in wanted]  # all are checked before the first picture is made
        check_columns(sum(run.settings.width for run in runs))
        return joined([finished(run).images[0] for run in runs]), parameters


def clips_of(
    prompt: str, bands: int, columns: int | None, clips: int, to_prompt: str | None, to_seed: int | None, **options: Any
) -> list[Request]:
    """A request a clip, of the first prompt and seed up to the last."""
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
    """Writes the sound of a picture; returns what `--json` prints."""
    from latentrt.audio import sound_from_picture
    from latentrt.audio.wav import write_wav

    with progress_bar("listening", iterations * parameters.channels) as advance:
        sound = sound_from_picture(picture, parameters, seed=seed, iterations=iterations, advance=advance)
    write_wav(out, sound)
    return report(out, picture.width, parameters)


def report(out: Path, columns: int, parameters: Parameters) -> dict[str, Any]:
    """What `--json` prints."""
    from dataclasses import asdict

    return {"file": str(out), "columns": columns, "seconds": (columns - 1) / 100, **asdict(parameters)}
