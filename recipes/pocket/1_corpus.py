"""Make the pocket corpus: free game music out of Debian packages, rendered scores, and one list of captions.

    python recipes/pocket/1_corpus.py OUT [--cache FOLDER]

`tracks.csv`, `scores.csv` and `takes.csv` in data/ name every piece. Needed: Debian 12 with apt-get, dpkg-deb,
fluidsynth and openmpt123, the packages fluid-soundfont-gm and musescore-general-soundfont, and the Python packages
soundfile, rich, scipy and music21==10.5.1. Run it again after an interruption: what lies there is kept, and no file is
ever seen half written.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import soundfile
from music import render
from music.packages import Row, extract, read_tracks, write_whole
from music.scores import SOUNDFONTS, Trouble
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

DATA = Path(__file__).resolve().parent / "data"


def decodes(path: Path) -> bool:
    """Whether soundfile can open the file and read its first second."""
    try:
        with soundfile.SoundFile(path) as f:
            return f.frames > 0 and len(f.read(f.samplerate)) > 0
    except (OSError, soundfile.SoundFileError):
        return False


def sounds_of(row: Row) -> dict[str, str]:
    """The sound font that a piece was rendered with, and its licence; nothing where there is none."""
    notes = row.get("notes", "").lower()
    if row.get("style") not in (None, "chip") or notes.endswith(".mid"):
        return {"sound_font": SOUNDFONTS[row.get("font", "fluid")][2]}
    return {}


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
            | sounds_of(r)
        )
        splits[r["split"]] += 1
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(out / "captions.jsonl", text.encode())
    return splits


def make(out: Path, cache: Path, without_scores: bool) -> None:
    """Do it all, in the order in which the parts are useful: tracks, then scores, then the list of both."""
    for folder in (out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    rows = read_tracks(DATA / "tracks.csv")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        extract(rows, out, cache, bar)
        if not (out / "captions.jsonl").exists():
            captions(
                [r for r in rows if "notes" not in r], out
            )  # so that the tracks can be used while the scores are rendered
        if not without_scores:
            rows += render.read_scores(DATA / "scores.csv") + render.read_scores(DATA / "takes.csv")
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
        print(f"1_corpus.py: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("1_corpus.py: interrupted; run it again to go on", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
