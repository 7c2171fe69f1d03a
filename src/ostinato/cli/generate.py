"""`ostinato generate`."""

import math
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ostinato.cli.app import Device, Model, app, console, pick_device
from ostinato.cli.checks import (
    LONGEST,
    check_device,
    check_model,
    check_prompt,
    check_sampling,
    check_seconds,
    check_seed,
)
from ostinato.utils.audio_files import check_input, check_output
from ostinato.utils.errors import UserError

if TYPE_CHECKING:
    from ostinato.generation.pipeline import Clip

OWN = " Default: the model's own setting."


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="A sentence that says what to play.")],
    seconds: Annotated[float, typer.Option(help="Length of what is generated, after any --continue-from.")] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed and settings give the same bytes.")] = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A .wav, .flac, .ogg or .mp3 file; -: WAV to the standard output, as it is made."
        ),
    ] = Path("out.wav"),
    model: Model = None,
    continue_from: Annotated[
        Path | None, typer.Option(help="An audio file to go on from, as it sounds through the codec.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the text: 1 no guidance, 3 usual, above 6 harsh." + OWN)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="How daring: 0 the likeliest code always, 1 as learned, above 1.5 wild." + OWN)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest codes; 0: from all." + OWN)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest that make up this share." + OWN)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of a two-stage model's fine stage." + OWN)] = None,
    device: Device = "auto",
) -> None:
    """Turn a sentence into music."""
    check_prompt(prompt)
    check_seed(seed)
    check_seconds(seconds, math.inf if str(output) == "-" else LONGEST)
    check_sampling(guidance, temperature, top_k, top_p)
    if steps is not None and steps < 1:
        raise UserError(f"steps must be 1 or more, got {steps}")
    if continue_from is not None:
        check_input(continue_from)
    check_model(model)
    check_device(device)
    if str(output) == "-":
        if sys.stdout.isatty():
            raise UserError("--output - writes a WAV to the standard output: pipe it, as in `| aplay`, or name a file")
    else:
        check_output(output)  # a name that cannot be written is refused before the work, not after it
    with console.status("loading"):
        from ostinato.generation.pipeline import Clip, load
        from ostinato.utils.audio import write_stream

        asked = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        loaded = load(model, pick_device(device))
        settings = replace(loaded.sampling, **given)
        if steps is not None:
            if loaded.fine is None:
                raise UserError("--steps is for models of two stages, and this one has no fine stage: leave it out")
            loaded.fine.sampling = replace(loaded.fine.sampling, steps=steps)
        frames = loaded.frame_count(seconds)
    rate, began = loaded.codec.frame_rate, time.monotonic()
    columns = (BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None, shown="")

        def show(done: int, count: int) -> None:
            speed = (time.monotonic() - began) / (done / rate)
            shown = f"{done / rate:.1f} / {count / rate:.1f} s, real-time factor {speed:.2f}"
            progress.update(bar, completed=done, total=count, shown=shown)

        if str(output) == "-":
            pieces = loaded.play(prompt, seed, settings, continue_from, seconds, show)
            try:
                return write_stream(sys.stdout.buffer, pieces, loaded.codec.sample_rate)
            except BrokenPipeError:  # the player has gone; Python would complain once more while closing the pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return
            except OSError as error:
                from ostinato.utils.files import why

                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise UserError(f"cannot write to the standard output ({why(error)})") from error
        clip = cast(Clip, loaded.generate(prompt, seconds, seed, settings, continue_from, show))
    spent = time.monotonic() - began
    save(clip, output)
    length = clip.audio.shape[-1] / clip.sample_rate
    print(
        f"{output}: {length:.1f} s at {clip.sample_rate} Hz, seed {seed}, in {spent:.1f} s "
        f"(real-time factor {spent * rate / frames:.2f})"
    )


def save(clip: "Clip", output: Path) -> None:
    """Write the clip; where that fails, as on a full disk, keep it elsewhere before saying so."""
    try:
        return clip.save(output)
    except UserError as error:
        for folder in (Path(tempfile.gettempdir()), Path.home()):
            kept = folder / f"kept-{output.name}"
            if folder.resolve() != output.parent.resolve() and not kept.exists():
                try:
                    clip.save(kept)
                except UserError:
                    continue
                raise UserError(f"{error}; the clip is kept in {kept}") from error
        raise
