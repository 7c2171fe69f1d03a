"""What is said about an audio file: captions, title, artist, licence, source, split.

Three places, the nearer one winning field by field: a sidecar (`song.txt`, `song.json` beside `song.wav`), a table
(`captions.csv`, `captions.jsonl` in the folder, or a file given by path), the tags inside the audio file (title and
artist only).
"""

import csv
import hashlib
import json
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import soundfile as sf

from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

VALIDATION_SHARE = 0.05


@dataclass(frozen=True)
class About:
    """One file's description; a field nobody gave is empty."""

    captions: tuple[str, ...] = ()
    title: str = ""
    artist: str = ""
    licence: str = ""
    source: str = ""
    split: str = ""

    def over(self, other: "About") -> "About":
        """This description, its empty fields filled from `other`."""
        return About(**{key: value or getattr(other, key) for key, value in vars(self).items()})

    def digest(self) -> str:
        """Short fingerprint, by which `prepare` sees that a description was edited."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def gather(
    folder: Path, paths: list[str], table: Path | None = None
) -> tuple[dict[str, About], list[str], dict[str, str]]:
    """Sidecars and tables of all `paths` (relative to `folder`, with forward slashes).

    Args: table: a .csv, .jsonl or .ndjson file; None looks for captions.csv and captions.jsonl in `folder`.
    Returns: description by path (every path has one); the paths tables name that are not in `paths`; by path, what is
        wrong with sidecars that cannot be understood, and so are ignored (a song.json may be another program's).
    Raises: UserError for a table that cannot be understood, or a table none of whose rows fits.
    """
    tables = [table] if table else [f for f in (folder / "captions.csv", folder / "captions.jsonl") if f.is_file()]
    said: dict[str, About] = {}
    strangers: list[str] = []
    known = set(paths)
    for file in tables:
        named = _read_table(file, folder)
        if not named:
            raise UserError(f"the captions table {file} has no rows: write one a file, or take it away")
        if named and not known & named.keys():
            raise UserError(
                f"no path in {file} is an audio file of {folder} (the first is {next(iter(named))!r}): "
                f"write paths relative to {folder}"
            )
        strangers += sorted(named.keys() - known)
        for path, about in named.items():
            said[path] = _joined(said[path], about) if path in said else about
    faults = {}
    for path in paths:
        about, fault = _sidecar(folder / path)
        said[path] = about.over(said.get(path, About()))
        if fault:
            faults[path] = fault
    return {path: said[path] for path in paths}, strangers, faults


def with_tags(about: About, path: Path) -> About:
    """`about` with a missing title or artist taken from the file's own tags, where libsndfile reads them."""
    if about.title and about.artist:
        return about
    try:
        with sf.SoundFile(path) as file:
            tags = file.copy_metadata()
    except (sf.LibsndfileError, OSError, UnicodeDecodeError):
        return about
    return about.over(About(title=_clean(tags.get("title", "")), artist=_clean(tags.get("artist", ""))))


def split_of(path: str, given: str) -> str:
    """The split `given`, else "validation" for one file in twenty and "train" for the rest, by sha256 of the relative
    path: the same on every machine, and one split for all clips of a file."""
    if given:
        return given
    share = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64
    return "validation" if share < VALIDATION_SHARE else "train"


def _read_table(file: Path, folder: Path) -> dict[str, About]:
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}.get(file.suffix.lower())
    if rows is None:
        raise UserError(f"cannot read captions from {file}: give a .csv or .jsonl file")
    named: dict[str, About] = {}
    for where, row in rows(file):
        raw = row.get("path")
        if not isinstance(raw, str) or not raw.strip():
            raise UserError(f"{where} names no file: give every row a path, relative to {folder}")
        path = PurePosixPath(raw.strip().replace("\\", "/"))
        if path.is_absolute() and path.is_relative_to(folder.resolve().as_posix()):
            path = path.relative_to(folder.resolve().as_posix())
        about = _about(row, where)
        named[str(path)] = _joined(named[str(path)], about) if str(path) in named else about
    return named


def _csv_rows(file: Path) -> Iterator[tuple[str, dict]]:
    reader = csv.DictReader(_text(file).splitlines(keepends=True))
    try:
        for row in reader:
            row = _lower(row)
            for key in ("caption", "captions"):
                row[key] = (row.get(key) or "").split(" | ")
            yield f"{file}, line {reader.line_num},", row
    except csv.Error as error:
        raise UserError(f"cannot read {file}, line {reader.line_num} ({error}): fix that line") from error


def _jsonl_rows(file: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            yield f"{file}, line {number},", _object(line, f"{file}, line {number}")


def _sidecar(audio: Path) -> tuple[About, str]:
    """What the sidecars say, and what is wrong with them: one that cannot be understood says nothing."""
    about, faults = About(), []
    as_json, as_text = audio.with_suffix(".json"), audio.with_suffix(".txt")
    try:
        if as_json.is_file():
            about = _about(_object(_text(as_json), str(as_json)), str(as_json))
    except UserError as error:
        faults.append(f"ignored: {error}")
    try:
        if as_text.is_file():
            about = about.over(About(captions=_lines(_text(as_text).splitlines())))
    except UserError as error:
        faults.append(f"ignored: {error}")
    return about, "; ".join(faults)


def _about(row: dict, where: str) -> About:
    """One row or JSON object as a description. `tags` (MTG-Jamendo style) stand in as one caption where there is
    none."""
    captions = _strings(row.get("captions"), where) + _strings(row.get("caption"), where)
    if not captions and (tags := _strings(row.get("tags"), where)):
        captions = (", ".join(tags),)
    text = {key: _clean(str(row.get(key) or "")) for key in ("title", "artist", "source", "split")}
    return About(captions, licence=_clean(str(row.get("licence") or row.get("license") or "")), **text)


def _joined(one: About, other: About) -> About:
    """Two rows about one file: all their captions, once each; other fields from the first that has them."""
    return replace(one.over(other), captions=tuple(dict.fromkeys(one.captions + other.captions)))


def _strings(value: object, where: str) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        return _lines([value or ""])
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _lines(value)
    raise UserError(f"{where} has {reprlib.repr(value)} where text is wanted: give a string or a list of strings")


def _lines(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(_clean(line) for line in lines if line.strip())


def _clean(text: str) -> str:
    """Stripped, and half surrogates (JSON may hold them, UTF-8 and so Arrow may not) as question marks."""
    return text.encode("utf-8", "replace").decode().strip()


def _lower(row: dict) -> dict:
    return {key.strip().lower(): value for key, value in row.items() if isinstance(key, str)}


def _object(text: str, where: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): fix it") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} holds a {type(value).__name__}: write an object, {{...}}")
    return _lower(value)


def _text(file: Path) -> str:
    try:
        return read_text(file, "utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}): check the name and its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
