"""`ostinato studio` and `ostinato play`."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Annotated

import typer

from ostinato.cli.app import Device, Model, app, console, pick_device
from ostinato.utils.errors import UserError


def need(package: str, extra: str) -> None:
    """Raise UserError where an extra is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{package} is not installed: run pip install 'ostinato[{extra}]'")


@app.command()
def studio(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model folder, a run's folder, a hub id; may be given more than once. Default: pocket."),
    ] = None,
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0: every one, for everyone.")
    ] = "127.0.0.1",
    name: Annotated[list[str] | None, typer.Option(help="A host name that the page is reached by, too.")] = None,
    places: Annotated[
        int, typer.Option(help="Generations at once; who comes after waits in a queue.", min=1, max=1000)
    ] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of one generation.", min=1, max=1024)] = 1,
    device: Device = "auto",
) -> None:
    """Serve a page that plays music while it is made, and the same for programs."""
    for package in ("starlette", "uvicorn", "websockets"):
        need(package, "studio")
    from ostinato.studio import web

    web.listen_on(host, port).close()  # a port that is taken is told before the models are loaded
    with console.status("loading"):
        import torch

        from ostinato.generation.pipeline import load
        from ostinato.studio.app import studio as make_studio
        from ostinato.studio.engine import Engine, Limits

        torch.set_num_threads(threads)
        chosen = pick_device(device)
        models = {each: load(each, chosen) for each in model or ["pocket"]}
        engine = Engine(models, replace(Limits(), places=places))
    web.serve(make_studio(engine, name or ()), host, port, "Ostinato's studio")


@app.command()
def play(
    prompt: Annotated[str, typer.Argument(help="A sentence that says what to play.")],
    seconds: Annotated[float | None, typer.Option(help="Default: without end, until Ctrl-C.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same music.")] = 0,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """Play music to the loudspeakers while it is made."""
    if not prompt.strip():
        raise UserError("the prompt is empty; write a sentence that says what to play")
    need("sounddevice", "play")
    with console.status("loading"):
        from ostinato.generation.pipeline import load
        from ostinato.generation.streaming import early
        from ostinato.studio.loudspeakers import check, play_aloud

        check()
        loaded = load(model, pick_device(device))
        stream = loaded.play(prompt, seed, seconds=seconds, fine=early(loaded))
    gaps = play_aloud(stream, loaded.codec.sample_rate)
    if gaps:
        console.print(f"{gaps} pauses: this machine makes music more slowly than it plays", markup=False)
