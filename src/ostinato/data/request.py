"""What `ostinato prepare` is asked to do, checked before torch is loaded."""

import os
from pathlib import Path

from ostinato.utils.errors import UserError


def check_request(
    folder: Path,
    out: Path,
    clip_seconds: float,
    min_seconds: float,
    captions: str | os.PathLike | None,
    pcm: bool,
    sample_rate: int | None,
) -> None:
    """Raise UserError for what can be seen to be wrong without reading any audio. pcm: is there no codec?"""
    if not 0 < min_seconds <= clip_seconds < float("inf"):
        raise UserError(
            f"clips of {clip_seconds} s, at least {min_seconds} s: give 0 < min_seconds <= clip_seconds, both finite"
        )
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: check the name")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"the store {out} would lie inside the music in {folder}: name a folder outside it")
    if captions is not None and not Path(captions).is_file():
        raise UserError(f"there is no captions table {captions}: check the name")
    if pcm and (not sample_rate or sample_rate <= 0):
        raise UserError(f"sample rate {sample_rate}: a store without a codec needs one, in Hz (44100)")
