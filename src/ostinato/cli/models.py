"""`ostinato info`, `ostinato join` and `ostinato import-official`: what is done with model folders."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ostinato.cli.app import MODELS, app
from ostinato.cli.checks import check_model
from ostinato.utils.audio_files import WRITTEN_AS, check_input


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(help=MODELS + " Or an audio file that Ostinato made: what its tags say.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all weights, and hold them against the sha256 they were saved with.")
    ] = False,
) -> None:
    """Say what a model is, or how a file was made."""
    take = Path(model) if model and Path(model).suffix.lower() in WRITTEN_AS else None
    if take is None:
        check_model(model)
    else:
        check_input(take)
    from ostinato.generation.folders import resolve
    from ostinato.generation.info import describe, describe_take
    from ostinato.generation.info import verify as verify_weights

    folder = take or resolve(model)
    rows = describe_take(folder) if take else describe(folder)
    if verify and not take:
        rows |= verify_weights(folder)
    table = Table("", escape(str(folder)), show_edge=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
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
