"""Files out of Debian packages, unpacked as a stream: what a line of data/tracks.csv names."""

import csv
import os
import struct
import subprocess
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from music import render
from music.scores import Trouble
from rich.progress import Progress

Row = dict[str, str]  # one line of tracks.csv or of the list of scores


def read_tracks(path: Path) -> list[Row]:
    """The lines of tracks.csv, each with `file`, its path relative to OUT.

    A file name that a package uses twice gets its folder's name in front. What has to be rendered first, MIDI files
    and modules, has the path of the package's own file in `notes`.
    """
    with path.open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    names = Counter((r["package"], PurePosixPath(r["path"]).name) for r in rows)
    for r in rows:
        inside = PurePosixPath(r["path"])
        alone = names[r["package"], inside.name] == 1
        r["file"] = f"{r['package']}/{inside.name if alone else f'{inside.parent.name} - {inside.name}'}"
        if inside.suffix.lower() in render.SYMBOLIC:
            r["notes"] = r["file"]
            r["file"] += ".flac"
    return rows


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def fetch(package: str, cache: Path) -> Path:
    """The package's .deb in the cache, downloaded by apt-get where it is not there yet."""
    if found := sorted(cache.glob(f"{package}_*.deb")):
        return found[-1]
    # In a folder of its own, since apt-get leaves a half-written file under the final name when it is interrupted.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        os.chmod(folder, 0o777)  # apt-get downloads as the user _apt
        try:
            done = subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, capture_output=True, text=True)
        except FileNotFoundError:
            raise Trouble("no apt-get here: this recipe needs Debian 12 (bookworm)") from None
        got = list(Path(folder).glob("*.deb"))
        if done.returncode or not got:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["nothing was downloaded"]
            raise Trouble(f"apt-get download {package}: {said[0]} (Debian 12 and a fresh `apt-get update`?)")
        return got[0].replace(cache / got[0].name)


def members(deb: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of the wanted files of a package, read as a stream; `a.pk3!b` is the file b of the archive a."""
    archives = defaultdict(set)
    for path in wanted:
        outer, _, inner = path.partition("!")
        archives[outer].add(inner)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as unpack:
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                if name not in archives or not (data := tar.extractfile(entry)):
                    continue
                if archives[name] == {""}:
                    yield name, data.read()
                else:
                    yield from zipped(name, data, archives[name])
        if unpack.wait():
            raise Trouble(f"{deb} is damaged: delete it and run again")


def zipped(name: str, data: IO[bytes], inner: set[str]) -> Iterator[tuple[str, bytes]]:
    """Files of a zip or WAD that lies inside the tar: through a temporary file, as a zip cannot be read as a stream."""
    with tempfile.TemporaryFile() as spool:
        while block := data.read(1 << 20):
            spool.write(block)
        if spool.seek(0) == 0 and spool.read(4) == b"IWAD":
            yield from lumps(name, spool, inner)
            return
        with zipfile.ZipFile(spool) as archive:
            for path in sorted(inner & set(archive.namelist())):
                yield f"{name}!{path}", archive.read(path)


def lumps(name: str, wad: IO[bytes], inner: set[str]) -> Iterator[tuple[str, bytes]]:
    """Files of a WAD archive: a count and the place of the directory, whose entries are offset, size and name."""
    wad.seek(4)
    count, start = struct.unpack("<II", wad.read(8))
    wad.seek(start)
    for offset, size, lump in struct.iter_unpack("<II8s", wad.read(16 * count)):
        path = lump.rstrip(b"\0").decode("ascii", "replace") + ".mid"
        if path in inner:
            wad.seek(offset)
            yield f"{name}!{path}", wad.read(size)


def extract(rows: list[Row], out: Path, cache: Path, bar: Progress) -> None:
    """Write the listed tracks to OUT/<package>/<file>, byte for byte as the package has them."""
    packages = defaultdict(list)
    for r in rows:
        packages[r["package"]].append(r)
    task = bar.add_task("packages", total=len(rows))
    for package, listed in packages.items():
        files = {r["path"]: r.get("notes", r["file"]) for r in listed}
        missing = {path: file for path, file in files.items() if not (out / file).exists()}
        bar.update(task, advance=len(listed) - len(missing), description=package)
        if not missing:
            continue
        for path, data in members(fetch(package, cache), set(missing)):
            write_whole(out / missing.pop(path), data)
            bar.advance(task)
        if missing:
            raise Trouble(f"{package} has no {sorted(missing)[0]}: this is not Debian 12's version of the package")
