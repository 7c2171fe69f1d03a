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

from ostinato.cli.app import Device, Model, app, console, pick_device, progress
from ostinato.cli.checks import (
    LONGEST,
    check_device,
    check_model,
    check_prompt,
    check_seconds,
    check_seed,
)
from ostinato.generation.settings import Sampling
from ostinato.utils.audio_files import check_input, check_output
from ostinato.utils.errors import UserError

if TYPE_CHECKING:
    from ostinato.generation.pipeline import Clip, Ostinato

TOGETHER = 8  # clips of --prompts in one batch: a step of 4 rows takes little longer than one of 1
OWN = " Default: the model's own setting."


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="A sentence that says what to play.", show_default=False)] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(help="In place of one sentence, a text file with one a line; --output is then a folder."),
    ] = None,
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
    runtime: Annotated[
        str, typer.Option(help="torch, or onnx: --model is then a folder that `ostinato export` wrote.")
    ] = "torch",
    device: Device = "auto",
) -> None:
    """Turn a sentence into music."""
    if runtime not in ("torch", "onnx"):
        raise UserError(f"unknown runtime {runtime!r}: give torch or onnx")
    if prompts is not None and prompt:
        raise UserError("give one sentence or --prompts FILE, not both")
    if prompts is None:
        check_prompt(prompt)
    check_seed(seed)
    check_seconds(seconds, math.inf if str(output) == "-" else LONGEST)
    asked = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    Sampling(**given)  # a value that cannot be is refused before torch is loaded
    if steps is not None and steps < 1:
        raise UserError(f"steps must be 1 or more, got {steps}")
    if continue_from is not None:
        check_input(continue_from)
    lines = read_prompts(prompts, output) if prompts else []
    if prompts:
        if continue_from or str(output) == "-":
            raise UserError("--prompts writes a folder of clips from nothing: leave out --continue-from, --output -")
    elif str(output) == "-":
        if sys.stdout.isatty():
            raise UserError("--output - writes a WAV to the standard output: pipe it, as in `| aplay`, or name a file")
    else:
        check_output(output)  # a name that cannot be written is refused before the work, not after it
    check_device(device)
    if runtime == "onnx":
        if continue_from is not None or device not in ("auto", "cpu"):
            raise UserError("--runtime onnx plays from nothing, on the CPU: leave out --continue-from and --device")
        from ostinato.cli.export import generate_exported

        numbered = [(seed + i, text, path) for i, (text, path) in enumerate(lines) if not path.exists()]
        return generate_exported(model, numbered if prompts else [(seed, prompt, output)], seconds, given, steps)
    check_model(model)
    with console.status("loading"):
        from ostinato.generation.pipeline import Clip, load
        from ostinato.utils.audio import write_stream

        loaded = load(model, pick_device(device))
        settings = replace(loaded.sampling, **given)
        if steps is not None:
            if loaded.fine is None:
                raise UserError("--steps is for models of two stages, and this one has no fine stage: leave it out")
            loaded.fine.sampling = replace(loaded.fine.sampling, steps=steps)
        frames = loaded.frame_count(seconds)
    if prompts:
        return generate_many(loaded, model or "pocket", lines, output, seconds, seed, settings)
    rate, began = loaded.codec.frame_rate, time.monotonic()
    columns = (BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None, shown="")

        def show(done: int, count: int) -> None:
            speed = (time.monotonic() - began) / (done / rate)
            shown = f"{done / rate:.1f} / {count / rate:.1f} s, real-time factor {speed:.2f}"
            bars.update(bar, completed=done, total=count, shown=shown)

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
    save(clip, output, loaded, model or "pocket", seed, settings)
    length = clip.audio.shape[-1] / clip.sample_rate
    print(
        f"{output}: {length:.1f} s at {clip.sample_rate} Hz, seed {seed}, in {spent:.1f} s "
        f"(real-time factor {spent * rate / frames:.2f})"
    )


def save(clip: "Clip", path: Path, model: "Ostinato", name: str, seed: int, settings: Sampling) -> None:
    """Write a clip with what made it in the tags: dropped on the studio's page, the file can be made again."""
    from ostinato.generation.recipe import Recipe, model_id
    from ostinato.generation.streaming import Turn

    begins, fine = clip.begins, model.fine.sampling if model.fine else None
    turns, frames = (Turn(begins, clip.prompt, seed),), clip.codes.shape[-1] - begins
    before = clip.codes[:, :begins] if begins else None
    tags = Recipe(name, model_id(model), turns, settings, fine, frames, before=before).tags()
    try:
        return clip.save(path, tags)
    except UserError as error:
        for folder in (Path(tempfile.gettempdir()), Path.home()):  # a full disk, say: keep the clip before saying so
            kept = folder / f"kept-{path.name}"
            if folder.resolve() != path.parent.resolve() and not kept.exists():
                try:
                    clip.save(kept, tags)
                except UserError:
                    continue
                raise UserError(f"{error}; the clip is kept in {kept}") from error
        raise


def read_prompts(path: Path, folder: Path) -> list[tuple[str, Path]]:
    """Sentences and the files they go into. Raises UserError for a file without any, or a place that is no folder."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        if folder.suffix:
            raise UserError(f"with --prompts, --output is a folder, and {folder} looks like a file")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot use {path} and {folder} ({reason})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line:
            words = "".join(c if c.isalnum() else " " for c in line.lower()).split()
            found.append((line, folder / f"{number:04}-{'-'.join(words)[:50].strip('-')}.wav"))
    if not found:
        raise UserError(f"{path} has no sentence in it: write one a line")
    return found


def generate_many(
    model: "Ostinato",
    name: str,
    lines: list[tuple[str, Path]],
    folder: Path,
    seconds: float,
    seed: int,
    settings: Sampling,
) -> None:
    """One clip a line, `TOGETHER` at a time, line i with seed + i; clips that are there already are kept."""
    missing = [(i, text, path) for i, (text, path) in enumerate(lines) if not path.exists()]
    with progress() as bars:
        bar = bars.add_task("clips", total=len(lines), completed=len(lines) - len(missing))
        for batch in (missing[i : i + TOGETHER] for i in range(0, len(missing), TOGETHER)):
            seeds = [seed + i for i, _, _ in batch]
            clips = cast("list[Clip]", model.generate([text for _, text, _ in batch], seconds, seeds, settings))
            for clip, (i, _, path) in zip(clips, batch, strict=True):
                save(clip, path, model, name, seed + i, settings)
            bars.advance(bar, len(batch))
    kept = f", {len(lines) - len(missing)} were there already" if len(missing) < len(lines) else ""
    print(f"{folder}: {len(missing)} clips of {seconds:g} s{kept}")
