"""MTG-Jamendo (Bogdanov et al., 2019) by name: its tables, licences, splits and checksums, and what to download.

A folder of it is the authors' repository (github.com/MTG/mtg-jamendo-dataset: data/, audio_licenses.txt) with the audio
anywhere below: unpacked (00/1009600.mp3, or 00/1009600.low.mp3 of the low-bitrate copy), or as the archives came
(raw_30s_audio-low-00.tar). What is here of the tables is used; only the audio is needed. Where the academic
text-to-music challenge's preprocessing has been at work, its 00/1009600_instrumental.mp3 is taken before the original.
"""

from __future__ import annotations

import csv
import re
import tarfile
from pathlib import Path

from ostinato.curate.clip import Track
from ostinato.curate.stages import licence_name
from ostinato.utils.errors import UserError

MIRROR = "https://cdn.freesound.org/mtg-jamendo"
REPOSITORY = "https://github.com/MTG/mtg-jamendo-dataset"
ARCHIVES = 100
# Sizes in GB as the README of the repository states them.
KINDS = {
    "audio": (508, "320 kbit/s MP3, as the artists uploaded them"),
    "audio-low": (156, "low quality, a third of the size"),
}
TRACKS = 55_701  # in raw_30s.tsv
AUDIO = re.compile(r"(?:^|/)(\d\d)/(\d+)((?:\.low|_instrumental)?\.mp3)$")
ARCHIVE = re.compile(r"raw_30s_audio(-low)?-\d\d\.tar$")
TABLES = ("raw_30s_cleantags_50artists.tsv", "autotagging.tsv", "raw_30s_cleantags.tsv", "raw_30s.tsv", "raw.tsv")
METADATA = "raw.meta.tsv"
SPLIT_FILE = re.compile(r"split-0/autotagging-(train|validation|test)\.tsv$")


def what_to_download(kind: str = "audio-low") -> str:
    """Instructions, with sizes: the archives, the tables, and how they go together."""
    size, what = KINDS[kind]
    name = f"raw_30s_{kind}"
    others = "; ".join(f"{k}: {gb} GB, {told}" for k, (gb, told) in KINDS.items())
    return "\n".join(
        (
            f"MTG-Jamendo, {TRACKS} tracks over 30 s. Kinds of audio: {others}.",
            "",
            f"1. The tables (small):   git clone --depth 1 {REPOSITORY} mtg-jamendo",
            f"2. The audio ({size} GB, {what}), {ARCHIVES} archives, each resumable:",
            f"   cd mtg-jamendo && for n in $(seq -w 0 {ARCHIVES - 1}); do",
            f"     curl --fail --location --continue-at - --remote-name {MIRROR}/raw_30s/{kind}/{name}-$n.tar",
            "   done",
            f"3. Check them:           sha256sum --check data/download/{name}_sha256_tars.txt",
            "4. Use them, packed or not:  ostinato curate mtg-jamendo:mtg-jamendo OUT --recipe configs/data-paper.yaml",
            "",
            "The authors' own script (scripts/download/download.py) does 2 and 3, too: with --from mtg-fast, as its",
            "Google Drive links have died. Each track has its own licence: audio_licenses.txt, which `curate` reads.",
        )
    )


def jamendo_tracks(folder: Path) -> list[Track]:
    """The tracks that are here; those only in the table have a fault. Raises UserError where no audio is."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: `ostinato curate mtg-jamendo` says what to download")
    audio = {**_packed(folder), **_unpacked(folder)}
    if not audio:
        raise UserError(f"no audio of MTG-Jamendo in {folder}: `ostinato curate mtg-jamendo` says what to download")
    table, names, splits = _table(folder), _metadata(folder), _splits(folder)
    licences, sums = _licences(folder), _checksums(folder)
    tracks = []
    for number in sorted(audio.keys() | table.keys()):
        row, titles = table.get(number, {}), names.get(number, {})
        place = audio.get(number) or {"path": "", "suffix": ".mp3", "fault": "in the table, but its audio is not here"}
        relative = str(place.pop("relative", f"{number % 100:02d}/{number}.mp3"))
        tracks.append(
            Track(
                id=f"{number % 100:02d}/{number}",
                ids=(str(number), f"track_{number:07d}"),
                title=titles.get("TRACK_NAME", ""),
                artist=titles.get("ARTIST_NAME", "") or row.get("ARTIST_ID", ""),
                licence=licences.get(number, ""),
                source=f"https://www.jamendo.com/track/{number}",
                split=splits.get(number, ""),
                tags=tuple(row.get("TAGS", "").split("\t")) if row.get("TAGS") else (),
                sha256=sums.get(relative, ""),
                **place,
            )
        )
    return tracks


def _unpacked(folder: Path) -> dict[int, dict]:
    found = {}
    for path in sorted(folder.rglob("*.mp3")):
        if match := AUDIO.search(path.as_posix()):
            there = path.stat()
            found[int(match[2])] = {
                "path": str(path),
                "suffix": ".mp3",
                "size": there.st_size,
                "mtime": there.st_mtime_ns,
                "relative": f"{match[1]}/{match[2]}{match[3]}",
                "fault": "" if there.st_size else "empty (0 bytes)",
            }
    return found


def _packed(folder: Path) -> dict[int, dict]:
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        if not ARCHIVE.search(path.name):
            continue
        mtime = path.stat().st_mtime_ns
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isfile() and (match := AUDIO.search(f"/{member.name}")):
                        found[int(match[2])] = {
                            "path": str(path),
                            "suffix": ".mp3",
                            "size": member.size,
                            "mtime": mtime,
                            "offset": member.offset_data,
                            "relative": f"{match[1]}/{match[2]}{match[3]}",
                        }
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): fetch it again; sha256sum --check finds such") from error
    return found


def _find(folder: Path, name: str) -> Path | None:
    return next(iter(sorted(folder.rglob(name))), None)


def _number(text: str) -> int:
    """track_0001234 or 1234 -> 1234; -1 for anything else."""
    digits = text.removeprefix("track_")
    return int(digits) if digits.isdigit() else -1


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}): fetch the repository again") from error


def _table(folder: Path) -> dict[int, dict[str, str]]:
    """TRACK_ID ARTIST_ID ALBUM_ID PATH DURATION TAGS..., the tags to the end of the line."""
    path = next((found for name in TABLES if (found := _find(folder, name))), None)
    if path is None:
        return {}
    keys, *rows = _rows(path) or [[]]
    if keys[:1] != ["TRACK_ID"] or "TAGS" not in keys:
        raise UserError(f"{path} is not MTG-Jamendo's table (its first line should begin with TRACK_ID, and name TAGS)")
    last = keys.index("TAGS")
    named = {
        _number(row[0]): {**dict(zip(keys, row, strict=False)), "TAGS": "\t".join(row[last:])} for row in rows if row
    }
    named.pop(-1, None)
    return named


def _metadata(folder: Path) -> dict[int, dict[str, str]]:
    path = _find(folder, METADATA)
    keys, *rows = (_rows(path) if path else []) or [[]]
    return {_number(row[0]): dict(zip(keys, row, strict=False)) for row in rows if row and _number(row[0]) >= 0}


def _splits(folder: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for path in sorted(folder.rglob("autotagging-*.tsv")):
        if match := SPLIT_FILE.search(path.as_posix()):
            found |= {_number(row[0]): match[1] for row in _rows(path)[1:] if row}
    return found


def _licences(folder: Path) -> dict[int, str]:
    """audio_licenses.txt: for each track a line with its path, and below it who made it and under which licence."""
    path = _find(folder, "audio_licenses.txt")
    found: dict[int, str] = {}
    current = -1
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path else ():
        if match := AUDIO.search(f"/{line.strip()}"):
            current = int(match[2])
        elif current >= 0 and "licen" in line.lower():
            found[current] = licence_name(line)
    return found


def _checksums(folder: Path) -> dict[str, str]:
    """sha256 by path inside the data set (00/1009600.low.mp3)."""
    found = {}
    for path in sorted(folder.rglob("raw_30s_audio*_sha256_tracks.txt")):
        for line in path.read_text().splitlines():
            digest, _, name = line.strip().partition(" ")
            found[name.strip()] = digest
    return found
