"""`ostinato prepare` and `ostinato train`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ostinato.cli.app import Device, app, console, pick_device
from ostinato.cli.checks import check_codec, check_device, check_model
from ostinato.data.request import check_request
from ostinato.training.settings import read_values
from ostinato.utils.errors import UserError


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="Audio files, searched in all folders below.")],
    out: Annotated[Path, typer.Argument(help="The store to write, or to bring up to date.")],
    codec: Annotated[
        str, typer.Option(help="dac, encodec, pocket, a folder, a hub id; none: the audio itself.")
    ] = "dac",
    sample_rate: Annotated[int | None, typer.Option(help="With --codec none: Hz of the audio kept.")] = None,
    clip_seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 30.0,
    min_seconds: Annotated[
        float | None, typer.Option(help="Least length of a clip, which the rest of a file may have; default: 1.")
    ] = None,
    silence_db: Annotated[
        float, typer.Option(help="Clips under this level, or quieter for over half their time, are left out.")
    ] = -50.0,
    captions: Annotated[Path | None, typer.Option(help="A .csv or .jsonl with path and caption(s).")] = None,
    batch: Annotated[int | None, typer.Option(help="Clips encoded at once; default: 4 on a GPU, 1 on a CPU.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that read and encode; with several GPUs, they take these in turn.")
    ] = 0,
    device: Device = "auto",
) -> None:
    """Turn a folder of audio into a store of clips to train on. Run it again after adding files: it does only those."""
    for option, value, least in (("--batch", batch, 1), ("--workers", workers, 0)):
        if value is not None and value < least:
            raise UserError(f"{option} must be {least} or more, got {value}")
    if not silence_db < 0:
        raise UserError(f"--silence-db is a level under 0, such as -50, got {silence_db:g}")
    least_seconds = min(1.0, clip_seconds) if min_seconds is None else min_seconds
    check_codec(codec)
    check_device(device)
    check_request(folder, out, clip_seconds, least_seconds, captions, codec == "none", sample_rate)
    from ostinato.data.prepare import prepare as prepare_store

    options: dict[str, Any] = {
        "sample_rate": sample_rate,
        "clip_seconds": clip_seconds,
        "min_seconds": least_seconds,
        "silence_db": silence_db,
        "captions": captions,
        "workers": workers,
    }
    if codec == "none":
        report = prepare_store(folder, out, **options)
    else:
        from ostinato.codecs.base import fingerprint
        from ostinato.codecs.load import load_codec
        from ostinato.generation.folders import resolve

        source = str(resolve(codec)) if Path(codec).is_dir() else codec
        chosen = pick_device(device)
        try:
            loaded = load_codec(source, "cpu" if workers else chosen)
        except UserError as error:
            if codec in ("dac", "encodec"):
                raise UserError(f"{error}; or take --codec pocket, which ships and needs no network") from error
            raise
        if workers:
            options["devices"] = all_of(chosen)
        options["batch"] = batch or (1 if chosen == "cpu" else 4)
        report = prepare_store(folder, out, loaded, source, fingerprint(loaded), **options)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    print(f"{out}: {report.clips} clips, {report.seconds / 3600:.2f} h; files: {outcomes} ({out / 'report.csv'})")
    if gone := report.outcomes.get("gone"):
        console.print(f"{gone} files have left {folder}, and their clips the store, until they are back", markup=False)
    if report.strangers:
        console.print(
            f"the captions table names {len(report.strangers)} not in {folder}, such as {report.strangers[0]}"
        )


def all_of(device: str) -> tuple[str, ...]:
    """Every GPU for "cuda", else the device alone."""
    import torch

    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) if device == "cuda" else (device,)


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
        int | None, typer.Option(help="Train adapters of this rank only (pip install 'ostinato\\[lora]').")
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
        float | None, typer.Option(help="With --plan: the share of the peak to assume; default: measured here.")
    ] = None,
) -> None:
    """Train a language model, a fine stage or the pocket codec. The same command goes on from the newest checkpoint.
    Without a config, it trains what --init names; of a model of two stages both, one after the other."""
    for option, value in {"--gpu": gpu, "--mfu": mfu}.items():
        if value is not None and not plan:
            raise UserError(f"{option} {value} only says what --plan should assume: add --plan, or leave it out")
    options = {"init": init, "data": data, "output": output, "lora": lora}
    given = {key: value for key, value in options.items() if value is not None}
    settings = setting or []
    values = read_values(config, settings, given)
    check_run(values, plan)
    from ostinato.generation.folders import has_two_stages
    from ostinato.training.config import Run, load_run, stage_runs

    one = config or lora or any(each.startswith(("task=", "lora=")) for each in settings)
    both = not one and has_two_stages(values["init"])
    runs: list[Run] = [*stage_runs(settings, given, values["output"])] if both else [load_run(config, settings, given)]
    if plan:
        from ostinato.training.plan import plan as plan_run

        for run in runs:
            Console().print(plan_run(run, gpu, mfu))
        return
    from ostinato.generation.join import check_place, join
    from ostinato.training.checkpoint import delete_run
    from ostinato.training.distributed import is_first, leave
    from ostinato.training.trainer import train as run_training

    if both:
        check_place(Path(values["output"]))
        if fresh and is_first():  # of the second stage, too, should the first be interrupted
            delete_run(Path(runs[1].output))
    try:
        last = [run_training(run, fresh) for run in runs]
    finally:
        leave()
    if is_first():
        print(join(last[0], last[1], values["output"]) if both else last[0])


def check_run(values: dict[str, Any], plan: bool) -> None:
    """Raise UserError for a run that has nothing to begin with or to train on; a plan needs no store."""
    if values.get("init"):
        check_model(str(values["init"]))
    if "data" in values and not plan and not (Path(str(values["data"])) / "store.json").is_file():
        raise UserError(f"no store at {values['data']}: make one with `ostinato prepare`")
