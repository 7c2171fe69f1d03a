"""`ostinato generate`."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from ostinato.cli.app import Device, Dtype, Model, app, console, pick_device, progress, to_stdout
from ostinato.cli.checks import (
    LONGEST,
    check_device,
    check_dtype,
    check_model,
    check_prompt,
    check_seconds,
    check_seed,
)
from ostinato.generation.settings import Sampling
from ostinato.utils.audio_files import check_input, check_output
from ostinato.utils.bars import Bars
from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

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
    takes: Annotated[
        int, typer.Option(help="Clips of each sentence, seed after seed; above 1, --output is a folder.")
    ] = 1,
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
    state: Annotated[
        Path | None,
        typer.Option(help="A file to keep the generation in: the same command goes on, with more --seconds further."),
    ] = None,
    negative: Annotated[
        str, typer.Option(help="A sentence that says what not to play: guidance leads away from it.")
    ] = "",
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the text: 1 no guidance, 3 usual, above 6 harsh." + OWN)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="How daring: 0 the likeliest code always, 1 as learned, above 1.5 wild." + OWN)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest codes; 0: from all." + OWN)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest that make up this share, above 0 to 1 (all)." + OWN)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps of a two-stage model's fine stage, 1 to 1000." + OWN)
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="torch, or onnx: --model is then a folder that `ostinato export` wrote.")
    ] = "torch",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Turn a sentence into music."""
    if runtime not in ("torch", "onnx"):
        raise UserError(f"unknown runtime {runtime!r}: give torch or onnx")
    asked = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p, "negative": negative}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value not in (None, "")}
    Sampling(**given)  # a value that cannot be is refused before torch is loaded, and so is all that follows
    if negative:
        check_prompt(negative)
    check_seed(seed)
    check_seconds(seconds, math.inf if str(output) == "-" else LONGEST)
    check_counts(takes, steps)
    if continue_from is not None:
        check_input(continue_from)
    several = prompts is not None or takes > 1
    if several and (continue_from or state or str(output) == "-"):
        raise UserError("a folder of clips is made from nothing: leave out --continue-from, --state and --output -")
    lines = read_prompts(prompts, prompt, takes, output) if several else []
    if not several:
        check_prompt(prompt)
        check_place(output, state)
    check_device(device)
    check_dtype(dtype)
    if runtime == "onnx":
        if continue_from or state or device not in ("auto", "cpu") or dtype != "float32":
            raise UserError(
                "--runtime onnx plays from nothing on the CPU: leave out --continue-from, --state, --device and --dtype"
            )
        from ostinato.cli.export import generate_exported

        numbered = [(seed + i, text, path) for i, (text, path) in enumerate(lines) if not path.exists()]
        return generate_exported(model, numbered if several else [(seed, prompt, output)], seconds, given, steps)
    check_model(model)
    with console.status("loading"):
        from ostinato.generation.pipeline import load
        from ostinato.utils.audio import write_stream

        loaded = load(model, pick_device(device), dtype)
        settings = replace(loaded.sampling, **given)
        if steps is not None:
            if loaded.fine is None:
                raise UserError("--steps is for models of two stages, and this one has no fine stage: leave it out")
            loaded.fine.sampling = replace(loaded.fine.sampling, steps=steps)
    if several:
        return generate_many(loaded, model or "pocket", lines, output, seconds, seed, settings)
    began = time.monotonic()
    with frame_bar(loaded.codec.frame_rate, f"reading {continue_from or 'the text'}") as show:
        if str(output) == "-":
            pieces, rate = loaded.play(prompt, seed, settings, continue_from, seconds, show), loaded.codec.sample_rate
            return to_stdout(lambda out: write_stream(out, pieces, rate))
        clip = cast("Clip", loaded.generate(prompt, seconds, seed, settings, continue_from, show, state))
    spent = time.monotonic() - began
    save(clip, output, loaded, model or "pocket", seed, settings)
    new, length = loaded.frame_count(seconds) / loaded.codec.frame_rate, clip.seconds
    print(
        f"{output}: {length:.{1 if length >= 0.1 else 3}f} s at {clip.sample_rate} Hz, seed {seed}, in {spent:.1f} s "
        f"(real-time factor {spent / new:.2f})"
    )


def check_counts(takes: int, steps: int | None) -> None:
    if not 1 <= takes <= 10_000:
        raise UserError(f"takes must be from 1 to 10000, got {takes}")
    if steps is not None and not 1 <= steps <= 1000:
        raise UserError(f"steps must be from 1 to 1000, got {steps}")


def check_place(output: Path, state: Path | None) -> None:
    """Raise UserError where the clip, or the generation's state, cannot be written: before the work, not after it."""
    if str(output) != "-":
        check_output(output)
    elif state:
        raise UserError("--state goes with a file, not with --output -: leave one of them out")
    elif sys.stdout.isatty():
        raise UserError("--output - writes a WAV to the standard output: pipe it, as in `| aplay`, or name a file")
    if state and (
        state.exists() != state.is_file() or not state.parent.is_dir() or not os.access(state.parent, os.W_OK)
    ):
        raise UserError(f"cannot keep the generation in {state}: name a file in a folder that can be written")


@contextmanager
def frame_bar(rate: float, waiting: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of seconds of music, which shows `waiting` until there are any; gives what is to be told of each frame."""
    began, columns = time.monotonic(), (BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None, shown=waiting)

        def show(done: int, count: int) -> None:
            speed = (time.monotonic() - began) / (done / rate)
            shown = f"{done / rate:.1f} / {count / rate:.1f} s, real-time factor {speed:.2f}"
            bars.update(bar, completed=done, total=count, shown=shown)

        yield show


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


def read_prompts(path: Path | None, prompt: str, takes: int, folder: Path) -> list[tuple[str, Path]]:
    """Sentences, `takes` times each, and the files they go into. Raises UserError where there is no sentence, or where
    the place is no folder."""
    if path is not None and prompt:
        raise UserError("give one sentence or --prompts FILE, not both")
    if folder.suffix:
        raise UserError(f"with --prompts or --takes, --output is a folder, and {folder} looks like a file")
    try:
        lines = read_text(path).splitlines() if path else [prompt]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'})") from error
    found = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line or path is None:
            check_prompt(line)
            words = "".join(c if c.isascii() and c.isalnum() else " " for c in line.lower()).split()
            name = f"{number:04}-{'-'.join(words)[:50].strip('-')}"
            found += [
                (line, folder / f"{name}{f'-take{take}' if takes > 1 else ''}.wav") for take in range(1, takes + 1)
            ]
    if not found:
        raise UserError(f"{path} has no sentence in it: write one a line")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}): name another") from error
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
