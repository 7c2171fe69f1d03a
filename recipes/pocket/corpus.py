"""Make the pocket corpus: free game music out of Debian packages, rendered scores, and one list of captions.

    python recipes/pocket/corpus.py OUT [--cache FOLDER]

`tracks.csv` and `scores.csv` beside this file name every piece. Needed: Debian 12 with apt-get, dpkg-deb, fluidsynth
and openmpt123, the package fluid-soundfont-gm, and the Python packages soundfile, rich and music21==10.5.1. Run it
again after an interruption: what lies there is kept, and no file is ever seen half written.
"""

import argparse
import csv
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import render
import soundfile
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scores import Trouble

HERE = Path(__file__).resolve().parent
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


def decodes(path: Path) -> bool:
    """Whether soundfile can open the file and read its first second."""
    try:
        with soundfile.SoundFile(path) as f:
            return f.frames > 0 and len(f.read(f.samplerate)) > 0
    except (OSError, soundfile.SoundFileError):
        return False


def captions(rows: list[Row], out: Path) -> Counter:
    """Write OUT/captions.jsonl, one object a line; returns how many lines each split has."""
    lines, splits = [], Counter()
    for r in rows:
        if not decodes(out / r["file"]):
            print(f"warning: left out {r['file']}: soundfile cannot decode it", file=sys.stderr)
            continue
        source = r["path"] if r["package"] in ("music21", "rule") else r["package"]
        lines.append(
            {
                "path": r["file"],
                "captions": r["captions"].split(" | "),
                "title": r["title"],
                "artist": r["artist"],
                "licence": r["licence"],
                "source": source,
                "split": r["split"],
                "kind": r["kind"],
            }
        )
        splits[r["split"]] += 1
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(out / "captions.jsonl", text.encode())
    return splits


def make(out: Path, cache: Path, without_scores: bool) -> None:
    """Do it all, in the order in which the parts are useful: tracks, then scores, then the list of both."""
    for folder in (out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    rows = read_tracks(HERE / "tracks.csv")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        extract(rows, out, cache, bar)
        if not (out / "captions.jsonl").exists():
            captions(
                [r for r in rows if "notes" not in r], out
            )  # so that the tracks can be used while the scores are rendered
        if not without_scores:
            rows += render.read_scores(HERE / "scores.csv")
            render.render_all(out, [r for r in rows if "style" in r or "notes" in r], bar)
        rows = [r for r in rows if (out / r["file"]).exists()]
    print(f"{out / 'captions.jsonl'}: " + ", ".join(f"{n} {split}" for split, n in captions(rows, out).items()))


def main() -> int:
    """Read the command line; 0 if all is there, 2 with one line on stderr if not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the corpus")
    parser.add_argument("--cache", type=Path, help="folder that keeps the packages (OUT/.packages)")
    parser.add_argument("--without-scores", action="store_true", help="only the packages' tracks")
    args = parser.parse_args()
    try:
        make(args.out, args.cache or args.out / ".packages", args.without_scores)
    except (Trouble, OSError) as problem:
        print(f"corpus.py: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("corpus.py: interrupted; run it again to go on", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
