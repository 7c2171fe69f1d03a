"""`ostinato curate`: a collection becomes a training set."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ostinato.cli.app import Device, app, console, pick_device
from ostinato.utils.errors import UserError


@app.command()
def curate(
    music: Annotated[
        str,
        typer.Argument(
            help="A folder, mtg-jamendo:FOLDER, webdataset:FOLDER or datasets:NAME; mtg-jamendo: what to download."
        ),
    ] = "",
    out: Annotated[Path | None, typer.Argument(help="The data set to write, or to go on with.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="The stages, see configs/data-paper.yaml.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="stage.option=value over the recipe; stage=off leaves it out.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Write codes of this codec instead of audio: a store, ready to train on.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="A pool of processes, even where Ray is installed.")] = False,
    ray: Annotated[str | None, typer.Option(help="The address of a Ray cluster; default: one on this machine.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of the pool; 0: this one. Default: a core each.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Of this data set write the funnel; with MUSIC, samples to listen to, too.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --report: the folder. Default: REPORT-report.")
    ] = None,
    push: Annotated[str | None, typer.Option("--push-to-hub", help="Upload OUT as this data set: owner/name.")] = None,
    device: Device = "auto",
) -> None:
    """Turn a collection of music into clips with captions, with a reason for each one left out."""
    if report is not None:
        from ostinato.curate.report import report as write_report

        to = output or report.absolute().with_name(f"{report.absolute().name}-report")
        for path in write_report(report, to, music, lambda reason: console.print(reason, markup=False)):
            print(path)
        return
    if music == "mtg-jamendo":
        from ostinato.curate.jamendo import what_to_download

        return print(what_to_download())
    if push and not recipe:
        return _push(Path(music), push)
    if not music or out is None or recipe is None:
        raise UserError("give MUSIC, OUT and --recipe (configs/data-free.yaml needs no models), or --report OUT")
    from ostinato.curate.curate import Machine
    from ostinato.curate.curate import curate as run
    from ostinato.curate.recipe import load_recipe

    asked = [*(setting or []), *(["format=codes", f"codec={codec}"] if codec else [])]
    loaded = load_recipe(recipe, asked)
    chosen = pick_device(device)
    count = workers if workers is not None else (1 if chosen != "cpu" else os.cpu_count() or 1)
    if count < 0:
        raise UserError(f"--workers {count}: give 0 or more")
    machine = Machine(chosen, count, "" if local or workers is not None else _ray(ray))
    done = run(music, out, loaded, machine)
    print(f"{out}: {done.clips} clips, {done.hours:.2f} h of {done.hours_in:.2f} h in {done.tracks} files")
    for (stage, reason), (seconds, number) in done.reasons.items():
        console.print(f"  {number:7} out, {seconds / 3600:9.2f} h  {stage}: {reason}", markup=False)
    if done.wordless:
        told = f"note: {done.wordless} of {done.clips} clips have no caption"
        console.print(f"{told}; the stage caption, or a captions.csv, gives one", markup=False)
    if push:
        _push(out, push)


def _ray(address: str | None) -> str:
    """The address of Ray to use: what was given, "local" where Ray is installed, "" where it is not."""
    from importlib.util import find_spec

    if address:
        return address
    if find_spec("ray"):
        return "local"
    console.print("Ray is not installed: a pool of processes on this machine does it, with the same result")
    return ""


def _push(out: Path, name: str) -> None:
    from huggingface_hub import HfApi

    if not (out / "metadata.parquet").is_file():
        raise UserError(f"{out} is not a data set written by `ostinato curate`: it has no metadata.parquet")
    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=out, repo_type="dataset", ignore_patterns=[".work/**", ".lock"])
    except Exception as error:  # of the network, of the hub, of a name it does not take
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"could not upload {out} to {name} ({told}): `hf auth login`, and a network, are needed"
        ) from error
    print(f"https://huggingface.co/datasets/{name}")
