"""The command line. Typed signatures are the options, docstrings the help; a user's mistake is one line and exit 2."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ostinato.utils.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Text to music with state-space models.",
)
console = Console(stderr=True)
MODELS = "A model folder, a run's folder, a hub id; pocket (the default) or pocket-delay: they ship."
Model = Annotated[str | None, typer.Option(help=MODELS)]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]


OWN = " Default: the model's own setting."


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="A sentence that says what to play.")],
    seconds: Annotated[float, typer.Option(help="Length of what is generated, after any --continue-from.")] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed and settings give the same bytes.")] = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A .wav, .flac or .ogg file; -: WAV to the standard output, as it is made."
        ),
    ] = Path("out.wav"),
    model: Model = None,
    continue_from: Annotated[
        Path | None, typer.Option(help="An audio file to go on from; it is heard as the codec has it.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely the language model follows the text; 1: no guidance." + OWN)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the language model; 0: the likeliest code always." + OWN)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest codes; 0: from all." + OWN)] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest that make up this share." + OWN)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of a two-stage model's fine stage." + OWN)] = None,
    device: Device = "auto",
) -> None:
    """Turn a sentence into music."""
    if not prompt.strip():
        raise UserError("the prompt is empty; write a sentence that says what to play")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be from 0 to {2**63 - 1}, got {seed}")
    from ostinato.utils.audio import check_output, write_stream

    if str(output) == "-":
        if sys.stdout.isatty():
            raise UserError("--output - writes a WAV to the standard output: pipe it, as in `| aplay`, or name a file")
    else:
        check_output(output)  # a name that cannot be written is told before the work, not after it
    with console.status("loading"):
        from ostinato.generation.pipeline import Clip, load
        from ostinato.generation.sampling import Sampling

        asked = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        Sampling(**given)  # a value that cannot be is told before the model is loaded
        loaded = load(model, pick_device(device))
        settings = replace(loaded.sampling, **given)
        if steps is not None:
            if loaded.fine is None:
                raise UserError("--steps is for models of two stages, and this one has no fine stage: leave it out")
            loaded.fine.sampling = replace(loaded.fine.sampling, steps=steps)
        loaded.frame_count(seconds)
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
        clip = cast(Clip, loaded.generate(prompt, seconds, seed, settings, continue_from, show))
    spent = time.monotonic() - began
    clip.save(output)
    length = clip.audio.shape[-1] / clip.sample_rate
    print(
        f"{output}: {length:.1f} s at {clip.sample_rate} Hz, seed {seed}, in {spent:.1f} s "
        f"(real-time factor {spent / seconds:.2f})"
    )


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="Audio files, searched in all folders below.")],
    out: Annotated[Path, typer.Argument(help="The store to write, or to bring up to date.")],
    codec: Annotated[
        str, typer.Option(help="dac, encodec, pocket, a folder, a hub id; none: the audio itself.")
    ] = "dac",
    sample_rate: Annotated[int | None, typer.Option(help="With --codec none: Hz of the audio kept.")] = None,
    clip_seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 30.0,
    captions: Annotated[Path | None, typer.Option(help="A .csv or .jsonl with path and caption(s).")] = None,
    device: Device = "auto",
) -> None:
    """Turn a folder of audio into a store of clips to train on. Run it again after adding files: it does only those."""
    from ostinato.data.prepare import prepare as prepare_store

    min_seconds = min(1.0, clip_seconds)
    if codec == "none":
        report = prepare_store(
            folder,
            out,
            sample_rate=sample_rate,
            clip_seconds=clip_seconds,
            min_seconds=min_seconds,
            captions=captions,
        )
    else:
        from ostinato.codecs.codec import fingerprint, load_codec
        from ostinato.generation.pipeline import resolve

        source = str(resolve(codec)) if Path(codec).is_dir() else codec
        loaded = load_codec(source, pick_device(device))
        report = prepare_store(
            folder, out, loaded, source, fingerprint(loaded), sample_rate, clip_seconds, min_seconds, captions=captions
        )
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    print(f"{out}: {report.clips} clips, {report.seconds / 3600:.2f} h; files: {outcomes} ({out / 'report.csv'})")
    if gone := report.outcomes.get("gone"):
        console.print(f"{gone} files have left {folder}, and their clips the store, until they are back", markup=False)
    if report.strangers:
        console.print(
            f"the captions table names {len(report.strangers)} not in {folder}, such as {report.strangers[0]}"
        )


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file, see configs/; with --init and --data, none is needed.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Begin with the weights of a model: pocket, a folder or a hub id.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The store to train on, over the config's.")] = None,
    output: Annotated[
        str | None, typer.Option(help="The run's folder, over the config's; default: runs/ and the store's name.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="Train adapters of this rank only (pip install 'ostinato[lora]').")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the config, such as train.steps=500.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run's checkpoints and start over.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print parameters, FLOPs, memory and hours of the run, and do nothing.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option(help="With --plan: a GPU such as 'RTX 4090'; default: what is here.")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="With --plan: the share of the peak to reckon with; a GPU 0.4, a CPU 0.13.")
    ] = None,
) -> None:
    """Train a language model, a fine stage or the pocket codec. The same command goes on from the newest checkpoint."""
    from ostinato.training.config import load_run

    for option, value in {"--gpu": gpu, "--mfu": mfu}.items():
        if value is not None and not plan:
            raise UserError(f"{option} {value} only says what --plan is to reckon with: add --plan, or leave it out")
    options = {"init": init, "data": data, "output": output, "lora": lora}
    run = load_run(config, setting or [], {key: value for key, value in options.items() if value is not None})
    if plan:
        from ostinato.training.plan import plan as plan_run

        return Console().print(plan_run(run, gpu, mfu))
    from ostinato.training.distributed import is_first
    from ostinato.training.trainer import train as run_training

    last = run_training(run, fresh)
    if is_first():
        print(last)


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
    metrics: Annotated[str, typer.Option(help="Some of fd, kl, clap, fad, kad, tags, vendi, cosine.")] = "",
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
    seed: Annotated[int, typer.Option(help="Of the draw of prompts, of the clips, of the intervals.")] = 0,
    batch: Annotated[int, typer.Option(help="Clips generated at once.")] = 8,
    replicates: Annotated[int, typer.Option(help="Of the bootstrap.")] = 100,
    device: Device = "auto",
) -> None:
    """Measure clips and models against real music. The same command again makes and hears only what is new."""
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
        codebooks=numbers(codebooks, "--codebooks"),
        drift=drift,
        store=store,
        device=pick_device(device),
        **{name: value for name, value in chosen.items() if value},  # type: ignore[arg-type]
    )
    drawn = load_prompts(prompts, count, seed, vocals) if prompts else None
    with progress() as bars:
        results = run_evaluation(targets or [], drawn, reference, output, settings, teller(bars))
    files = write_tables(results, output)
    print(tables(results))
    console.print(f"in {output}: results.json, {', '.join(file.name for file in files)}", markup=False)


@app.command()
def report(
    evaluations: Annotated[list[Path] | None, typer.Argument(help="Folders that `ostinato evaluate` wrote.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="A training run's folder, for its losses; repeatable.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of the prompt whose spectrograms to draw.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("report"),
) -> None:
    """Draw the papers' tables and figures from evaluations and logs, the papers' own numbers beside."""
    from ostinato.evaluation.reporting.report import report as write_report

    for file in write_report(evaluations or [], run or [], output, prompt):
        print(file)


def split_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in split_names(text))
    except ValueError as error:
        raise UserError(f"{option} wants whole numbers with commas between, such as 1,9; got {text!r}") from error


def progress() -> Progress:
    """Bars with how many of how many, and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def teller(bars: Progress) -> Callable[[str, int, int], None]:
    """A function that shows what is being done, one bar at a time."""
    current: dict[str, Any] = {}

    def told(what: str, done: int, count: int) -> None:
        if what not in current:
            for task in current.values():
                bars.remove_task(task)
            current.clear()
            current[what] = bars.add_task(what, total=count)
        bars.update(current[what], completed=done, total=count)

    return told


@app.command()
def info(model: Annotated[str | None, typer.Argument(help=MODELS)] = None) -> None:
    """Say what a checkpoint is."""
    from ostinato.generation.pipeline import describe, resolve

    folder = resolve(model)
    table = Table("", str(folder), show_edge=False)
    for name, value in describe(folder).items():
        table.add_row(name, value)
    Console().print(table)


@app.command()
def join(
    lm: Annotated[str, typer.Argument(help="A language model of one codebook: its folder, its run's, a hub id.")],
    fine: Annotated[
        str, typer.Argument(help="A fine stage: likewise. Either may be a model of two stages, such as pocket.")
    ],
    out: Annotated[Path, typer.Argument(help="The model folder to write; an earlier joint model there is replaced.")],
) -> None:
    """Make one model of a language model for the first codebook and a fine stage for the others."""
    from ostinato.generation.join import join as join_stages

    print(join_stages(lm, fine, out))


@app.command("import-official")
def import_official(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' Lightning .ckpt file.")],
    config: Annotated[Path, typer.Argument(help="Their config.json.")],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
) -> None:
    """Turn a checkpoint of the paper's authors into a model folder."""
    from ostinato.convert.official import import_checkpoint

    print(import_checkpoint(checkpoint, config, out))


def pick_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return name


def main() -> None:
    try:
        app()
    except UserError as error:
        console.print(
            f"ostinato: {' '.join(str(error).split())}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
