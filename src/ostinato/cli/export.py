"""`ostinato export`, and `ostinato generate --runtime onnx`, which plays what it wrote."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import numpy as np
import typer

from ostinato.cli.app import MODELS, app, console, progress, show_progress, to_stdout
from ostinato.cli.checks import check_model
from ostinato.utils.errors import UserError
from ostinato.utils.samples import pcm16, wav_header, write_samples

if TYPE_CHECKING:
    from ostinato.export.runtime import Exported


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=MODELS)],
    out: Annotated[Path, typer.Argument(help="The folder to write; an earlier export there is replaced.")],
    web: Annotated[bool, typer.Option(help="A page that plays it in a browser; any web server will do.")] = False,
) -> None:
    """Write a model as ONNX: for `generate --runtime onnx`, which needs no PyTorch, or as a web page."""
    check_model(model)
    with console.status("loading"):
        from ostinato.export.web import earlier_page, export_page
        from ostinato.export.write import check_packages, earlier_export, export_model
        from ostinato.generation.pipeline import load

        check_packages()
        (earlier_page if web else earlier_export)(out)
        loaded = load(model)
    with progress() as bars:
        told = show_progress(bars)
        (export_page if web else export_model)(loaded, model, out, lambda _, done, count: told("graphs", done, count))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    print(f"{out}: {size:.0f} MB" + (f"; open it with: python -m http.server -d {out}" if web else ""))


def generate_exported(
    folder: str | None,
    takes: list[tuple[int, str, Path]],
    seconds: float,
    changed: dict[str, Any],
    steps: int | None,
) -> None:
    """Seeds, sentences and files, one after another; "-" is a WAV to the standard output. Imports no torch."""
    if folder is None:
        raise UserError("--runtime onnx plays an exported model: ostinato export pocket OUT, then --model OUT")
    with console.status("loading"):
        from ostinato.export.runtime import load_exported

        exported = load_exported(folder)
        settings = replace(exported.sampling, **changed)
        if steps is not None:
            if exported.fine is None:
                raise UserError("--steps is for models of two stages, and this one has no fine stage: leave it out")
            exported.fine = replace(exported.fine, steps=steps)
    frames = max(1, round(seconds * exported.frame_rate))
    for seed, sentence, path in takes:
        began = time.monotonic()
        with progress() as bars:
            told = show_progress(bars)
            pieces = exported.play(sentence, frames, seed, settings, partial(told, "frames"))
            if str(path) == "-":
                return to_stdout(partial(stream, exported, pieces))
            audio = np.concatenate([samples for samples, _ in pieces])
        tags = {"title": sentence, "comment": sentence}
        write_samples(path, audio, exported.sample_rate, tags)
        spent, length = time.monotonic() - began, len(audio) / exported.sample_rate
        print(
            f"{path}: {length:.1f} s at {exported.sample_rate} Hz, seed {seed}, in {spent:.1f} s "
            f"(real-time factor {spent / length:.2f})"
        )


def stream(exported: "Exported", pieces: Iterator[tuple[np.ndarray, np.ndarray]], out: BinaryIO) -> None:
    """A WAV as it is made. Raises UserError for a codec that cannot decode in pieces."""
    if exported.context is None:
        raise UserError("this model's codec decodes whole clips only; write to a file in place of a stream")
    out.write(wav_header(exported.sample_rate))
    for samples, _ in pieces:
        out.write(pcm16(samples))
        out.flush()
