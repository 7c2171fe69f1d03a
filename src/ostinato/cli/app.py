"""What the commands share: the app, its console, options that stand in several of them, and `main`.

Typed signatures are the options, docstrings the help; a user's mistake is one line and exit code 2. Heavy imports stay
inside the commands, so that `--help` and mistakes answer at once.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ostinato.utils.bars import Bars
from ostinato.utils.errors import UserError, why

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Text to music with state-space models.",
)
console = Console(stderr=True, soft_wrap=True)
USAGE: Any = typer.BadParameter.__mro__[1]  # UsageError: of click, or of the copy of it that newer typer has
MODELS = "A model folder, a run's folder, a hub id, or pocket, which ships and is the default."
Model = Annotated[str | None, typer.Option(help=MODELS)]
Dtype = Annotated[
    str,
    typer.Option(
        help="Of the weights: float32; on a GPU also tf32 (coarser float32 products), bfloat16, float16: faster, less "
        "memory, other bytes."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]


def show_version(asked: bool) -> None:
    if asked:
        from ostinato import __version__

        print(f"ostinato {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def split_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in split_names(text))
    except ValueError as error:
        raise UserError(f"{option} takes whole numbers separated by commas, such as 1,9; got {text!r}") from error


def progress() -> Bars:
    """Bars with how many of how many, and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bars(*columns, console=console, transient=True)


def show_progress(bars: Bars) -> Callable[[str, int, int], None]:
    """A function that shows what is being done, one bar at a time."""
    current: dict[str, Any] = {}

    def on_progress(what: str, done: int, count: int) -> None:
        if what not in current:
            for task in current.values():
                bars.remove_task(task)
            current.clear()
            current[what] = bars.add_task(what, total=count)
        bars.update(current[what], completed=done, total=count)

    return on_progress


def pick_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not available here: {str(error).splitlines()[0]}") from error
    return name


def to_stdout(write: Callable[[BinaryIO], object]) -> None:
    """`write` to the standard output. A player that has gone is no error."""
    try:
        write(sys.stdout.buffer)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain while closing the pipe
        if not isinstance(error, BrokenPipeError):
            raise UserError(f"cannot write to the standard output ({why(error)})") from error


def main() -> None:
    # OpenMP's threads would spin at every barrier, and so wait for one another where the cores are shared.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}", markup=False, highlight=False)
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        tell(str(error))
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            where = error.ctx.command_path if error.ctx else "ostinato"
            tell(f"{error.format_message().rstrip('.')}; see {where} --help")
    except OSError as error:
        from ostinato.utils.files import why

        tell(f"{error.filename or 'a file'} ({why(error)})")
    except UnicodeEncodeError as error:
        tell(f"{error.object[:60].encode('utf-8', 'backslashreplace').decode()} is not UTF-8 text: name it otherwise")
    except MemoryError:
        tell("there is not memory enough for this: ask for less, or a smaller model")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(2)


def tell(line: str) -> None:
    """A mistake, in one line."""
    console.print(f"ostinato: {' '.join(line.split())}", style="red", markup=False, highlight=False, soft_wrap=True)
