"""Captions that others wrote of a known collection, such as those of the academic text-to-music challenge (arXiv
2605.21538): a JSON list of {"path": "00/1085700.mp3", "caption": "..."}, a file for each model that wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ostinato.curate.clip import Drop, Said, Track
from ostinato.curate.stages import Captions, Context
from ostinato.utils.errors import UserError


def captions(options: Captions, context: Context) -> Callable[[Track], Track | Drop]:
    """Adds what the files say of a track to its captions, each with the name of its file as the writer.

    A track is known by its id or another of its ids, with or without folder and suffix. Raises: UserError for a file
    that cannot be read or names no track, and for an unknown `missing`."""
    if options.missing not in ("drop", "keep"):
        raise UserError(f"captions.missing {options.missing!r}: give drop or keep")
    said = {Path(file).stem: read_captions(file) for file in options.files}

    def add(track: Track) -> Track | Drop:
        names = (track.id, *track.ids, PurePosixPath(track.id).with_suffix("").as_posix())
        found = [
            Said(text, writer)
            for writer, texts in said.items()
            for text in next((texts[name] for name in names if name in texts), ())
        ]
        if not found and options.missing == "drop":
            return Drop("no caption in the caption files", ", ".join(said))
        return replace(track, captions=(*track.captions, *found))

    return add


def read_captions(file: str) -> dict[str, list[str]]:
    """Captions by the path they are of, as it stands there, without its suffix, and without its folder."""
    try:
        rows = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"cannot read the captions {file} ({error}): give a JSON list of path and caption") from error
    found: dict[str, list[str]] = {}
    for row in rows if isinstance(rows, list) else ():
        for path, text in _named(row):
            bare = PurePosixPath(path)
            for name in dict.fromkeys((path, bare.with_suffix("").as_posix(), bare.stem)):
                found.setdefault(name, []).append(text)
    if not found:
        raise UserError(f'{file} has no captions: it should be a JSON list of {{"path": ..., "caption": ...}}')
    return found


def _named(row: Any) -> Iterator[tuple[str, str]]:
    """Path and text of a row; of one that lacks either, nothing."""
    if isinstance(row, dict) and isinstance(row.get("path"), str) and isinstance(row.get("caption"), str):
        path, text = row["path"].strip(), " ".join(row["caption"].split())
        if path and text:
            yield path, text
