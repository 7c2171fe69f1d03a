"""`ostinato evaluate` and `ostinato report`."""

from pathlib import Path
from typing import Annotated

import typer

from ostinato.cli.app import Device, Dtype, app, console, numbers, pick_device, progress, show_progress, split_names
from ostinato.cli.checks import check_device, check_dtype, check_seconds
from ostinato.utils.errors import UserError


@app.command()
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Folders of clips, models (pocket, a folder, a hub id); name=TARGET names its row."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="musiccaps, song-describer, attm, one of these with :FILE, or a CSV with captions."),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Draw so many of the prompts, by the seed; default: all.")] = None,
    vocals: Annotated[bool, typer.Option("--vocals", help="Keep captions that name a voice.")] = False,
    reference: Annotated[
        Path | None, typer.Option(help="A folder of real audio; clips of one file name are pairs.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="Some of fd, fad, kad (distance to the reference), kl, tags (of pairs), clap (fit to the sentence), "
            "vendi, cosine (variety)."
        ),
    ] = "",
    listener: Annotated[
        list[str] | None,
        typer.Option(help="openl3, passt, vggish, clap (all, by default); offline: efficientat:FILE, jamendo:FILE."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 10.0,
    codec: Annotated[str, typer.Option(help="For --codebooks: dac, encodec, pocket, a folder, a hub id.")] = "dac",
    codebooks: Annotated[str, typer.Option(help="Real clips through the first n codebooks, such as 1,9.")] = "",
    drift: Annotated[bool, typer.Option("--drift", help="The metrics of each 10 s, too.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="The codes trained on: how much of them do the clips repeat?")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for everything made.")] = Path("evaluation"),
    seed: Annotated[int, typer.Option(help="Of the sample of prompts, of the clips, of the intervals.")] = 0,
    batch: Annotated[int, typer.Option(help="Clips generated at once.")] = 8,
    replicates: Annotated[int, typer.Option(help="Of the bootstrap.")] = 100,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Measure clips and models against real music. The same command again makes and embeds only what is new."""
    if not targets and reference is None:
        raise UserError("nothing to evaluate: name folders of clips or models, or give a --reference; see --help")
    check_seconds(seconds)
    check_device(device)
    check_dtype(dtype)
    cut = numbers(codebooks, "--codebooks")
    for option, value in {"--count": count, "--batch": batch, "--replicates": replicates}.items():
        if value is not None and value < 1:
            raise UserError(f"{option.strip('-')} must be 1 or more, got {value}")
    from ostinato.evaluation.evaluate import Settings
    from ostinato.evaluation.evaluate import evaluate as run_evaluation
    from ostinato.evaluation.prompts import load_prompts
    from ostinato.evaluation.reporting.tables import pyplot, tables, write_tables

    pyplot()  # what draws the figures at the end is missed now, not after hours
    chosen = {"metrics": split_names(metrics), "listeners": tuple(listener or ())}
    settings = Settings(
        seconds=seconds,
        seed=seed,
        batch=batch,
        replicates=replicates,
        codec=codec,
        codebooks=cut,
        drift=drift,
        store=store,
        device=pick_device(device),
        dtype=dtype,
        **{name: value for name, value in chosen.items() if value},  # type: ignore[arg-type]
    )
    sampled = load_prompts(prompts, count, seed, vocals) if prompts else None
    with progress() as bars:
        results = run_evaluation(targets or [], sampled, reference, output, settings, show_progress(bars))
    files = write_tables(results, output)
    print(tables(results))
    console.print(f"in {output}: results.json, {', '.join(file.name for file in files)}", markup=False)


@app.command()
def report(
    evaluations: Annotated[list[Path] | None, typer.Argument(help="Folders that `ostinato evaluate` wrote.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A training run's folder, for its losses; repeatable.")] = None,
    listening: Annotated[
        list[Path] | None, typer.Option(help="A listening test's folder, for Tables III and IV; repeatable.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of the prompt whose spectrograms to draw.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("report"),
) -> None:
    """Draw the papers' tables and figures from evaluations and logs, the papers' own numbers beside."""
    from ostinato.evaluation.reporting.report import report as write_report

    for file in write_report(evaluations or [], run or [], output, prompt, listening or []):
        print(file)
