"""A generation kept in a file while it is made: the same call goes on from it, and one for more seconds goes further.

Kept are the language model's state and frames. A fine stage's part and the sound are made anew from these.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ostinato.generation.sampling import Generation, generate_frames
from ostinato.models.lm import MusicLM
from ostinato.utils.errors import UserError

LEAST, SHARE = 5.0, 20  # s between two writes at the least, and in times of what one takes


def kept_frames(
    path: Path,
    lm: MusicLM,
    begin: Callable[[], Generation],
    about: dict[str, Any],
    count: int,
    on_frame: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """`count` frames [b, K of the language model], those in `path` first, and then new ones, which are kept there, too.

    begin: makes the generation where there is none yet; about: all that it depends on, as JSON has it. Raises UserError
    where `path` holds a generation of anything else, or cannot be written.
    """
    generation, kept = read(path, lm, about) if path.exists() else (begin(), None)
    if kept is None:
        kept = torch.zeros(*generation.recent.shape[:2], 0, dtype=torch.long, device=lm.device)
        write(path, generation, kept, about)  # a place that cannot be written is told before the work
    done, new, due = kept.shape[-1], [], time.monotonic() + LEAST
    if on_frame and done:
        on_frame(min(done, count), count)
    yield from kept[..., :count].unbind(-1)
    for codes in islice(generate_frames(lm, generation), max(0, count - done)):
        new.append(codes)
        if on_frame:
            on_frame(done + len(new), count)
        if time.monotonic() > due or done + len(new) == count:
            began = time.monotonic()
            write(path, generation, torch.cat([kept, torch.stack(new, -1)], -1), about)
            due = time.monotonic() + max(LEAST, SHARE * (time.monotonic() - began))
        yield codes


def write(path: Path, generation: Generation, frames: Tensor, about: dict[str, Any]) -> None:
    generation.save(path, {"frames": frames.to(torch.int32)}, {"about": json.dumps(about)})


def read(path: Path, lm: MusicLM, about: dict[str, Any]) -> tuple[Generation, Tensor]:
    """The generation in `path` and its frames [b, K, n]. Raises UserError where it is not one of `about`."""
    generation = Generation.load(path, lm)
    with safe_open(path, "pt") as file:
        was = json.loads(file.metadata().get("about", "{}"))
        frames = file.get_tensor("frames").long() if "frames" in file.keys() else None  # noqa: SIM118
    if differ := [f"{key} {was.get(key)!r} there, {about[key]!r} asked" for key in about if was.get(key) != about[key]]:
        raise UserError(f"{path} holds another generation ({'; '.join(differ)}): name another file, or delete it")
    if frames is None or frames.shape[:2] != generation.recent.shape[:2]:
        raise UserError(f"{path} holds no frames to go on from: name another file, or delete it")
    return generation, frames.to(lm.device)
