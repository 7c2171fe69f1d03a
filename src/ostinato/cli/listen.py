"""`ostinato listen prepare`, `serve` and `results`: a blind listening test on the web."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ostinato.cli.app import app, console, progress, show_progress
from ostinato.utils.errors import UserError

listen = typer.Typer(no_args_is_help=True, help="A blind listening test on the web.")
app.add_typer(listen, name="listen")
Test = Annotated[Path, typer.Argument(help="The folder that `ostinato listen prepare` wrote.")]


def needs_extra() -> None:
    """Raises UserError where what the listening test is built on is not installed."""
    for module in ("starlette", "uvicorn", "pyloudnorm", "scipy"):
        if find_spec(module) is None:
            raise UserError(f"the listening test needs {module}: pip install 'ostinato[studio]'")


@listen.command()
def prepare(
    targets: Annotated[
        list[str],
        typer.Argument(help="Folders of clips, or that `ostinato evaluate` wrote; NAME=FOLDER names a system."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("listening"),
    prompts: Annotated[
        int | None, typer.Option(help="Prompts of one listener (default 3); with --pairs, pairs (default 10).")
    ] = None,
    pool: Annotated[
        int | None, typer.Option(help="Choose them from so many prompts, by the seed; default: all.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Ask which of two clips is better, not for marks.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Longest part of a clip to play.")] = None,
    captions: Annotated[
        str | None, typer.Option(help="Where the sentences are, if not in the clips: as --prompts of evaluate.")
    ] = None,
    title: Annotated[str, typer.Option(help="What listeners see the test called.")] = "Listening test",
    consent: Annotated[Path | None, typer.Option(help="A text file with what listeners consent to.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Real recordings, hidden among the systems.")] = None,
    anchor: Annotated[bool, typer.Option("--anchor", help="The recordings below 3.5 kHz, hidden too.")] = False,
    attention: Annotated[bool, typer.Option("--attention", help="One clip of a session is a check: beeps.")] = False,
    headphones: Annotated[bool, typer.Option("--headphones", help="First set the volume, then six trials.")] = False,
    heard_in_full: Annotated[
        bool, typer.Option("--heard-in-full", help="A clip can be rated only once it has been played to its end.")
    ] = False,
    loudness: Annotated[float, typer.Option(help="Of every clip, in LUFS; less where one would clip.")] = -23.0,
    seed: Annotated[int, typer.Option(help="Of the pool, of who hears what, and of the order.")] = 0,
) -> None:
    """Make a listening test of clips: the paper's protocol, by default."""
    needs_extra()
    from ostinato.studio.listen.prepare import Options
    from ostinato.studio.listen.prepare import prepare as prepare_test

    mode = "pairs" if pairs else "scales"
    options = Options(
        prompts, pool, mode, seconds, title, captions, consent, reference, anchor, attention, headphones,
        heard_in_full, loudness, seed,
    )  # fmt: skip
    with progress() as bars:
        test, notes = prepare_test(targets, output, options, show_progress(bars))
    for note in notes:
        console.print(note, markup=False, highlight=False)
    what = ("pair" if pairs else "prompt") + "s" * (test.session > 1)
    print(
        f"{output}: {len(test.systems)} systems, {len(test.prompts)} prompts, {len(test.stimuli)} clips at "
        f"{test.loudness:.1f} LUFS; a listener has {test.session} {what}. Next: ostinato listen serve {output}"
    )


@listen.command()
def serve(
    test: Test,
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0: for everyone who reaches this machine.")] = "127.0.0.1",
    name: Annotated[
        list[str] | None, typer.Option(help="A host name that listeners reach it by, as in listen.example.org.")
    ] = None,
) -> None:
    """Put a listening test on the web. Ended and started again, it goes on where everyone was."""
    needs_extra()
    from ostinato.studio.listen.server import serve as serve_test

    serve_test(test, host, port, tuple(name or ()))


@listen.command()
def results(
    test: Test,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: TEST/results.")] = None,
    only_passed: Annotated[
        bool, typer.Option("--only-passed", help="Leave out who failed the headphone check or an attention clip.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Count what listeners said so far: means as in the paper's tables, intervals, agreement, a CSV of every mark."""
    needs_extra()
    from ostinato.evaluation.reporting.listening import results_page
    from ostinato.studio.listen.results import results as count

    said = count(test, output, only_passed, seed)
    print(results_page(said))
    console.print(f"in {output or test / 'results'}: listening.json, results.md, ratings.csv", markup=False)
