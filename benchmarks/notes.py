"""Are there notes in it? What a transcriber hears in real music, in the same through a codec, and in generated clips.

    pip install onnxruntime && pip download --no-deps basic-pitch==0.4.0
    unzip -j basic_pitch-0.4.0-*.whl basic_pitch/saved_models/icassp_2022/nmp.onnx
    python benchmarks/notes.py nmp.onnx --real CORPUS --codebooks 1,12 --clips kinds/clips --picture notes.png

CORPUS is the folder that the corpus script of recipes/pocket wrote, kinds/clips what benchmarks/kinds.py generated. The
network is that of basic-pitch (arXiv 2203.09893, Apache 2.0), which hears the 88 keys of a piano whatever plays them.
Means over clips, with the standard error of the mean:
- sounding: keys a frame whose note probability is at least 0.3; clear: at least 0.5;
- kept: share of the real clip's sounding cells (frame and key) that still sound; added: sounding cells that are not in
  the real clip, as a share of the real clip's;
- onsets: notes a second that begin with an onset probability of at least 0.5 and last 128 ms or longer;
- in key: share of the notes within the clip's best-fitting major scale (its relative minor has the same notes), of
  clips with 8 notes or more. Keys drawn at random would give 0.76 for 16 notes, 0.68 for 64;
- length: median length of a clip's notes in seconds;
- pulse: highest autocorrelation of the onsets at 60 to 180 beats a minute (1: strictly regular).

`--picture FILE`: a row for each kind, in the order of --kinds: mel spectrograms (top) and piano rolls (below) of a real
clip, of the same through the codec, and of a generated one.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
import torch
from kinds import KINDS, RATE, real_clips
from PIL import Image
from rich.progress import track

from ostinato.codecs.load import load_codec
from ostinato.utils.audio import read_audio
from ostinato.utils.errors import UserError
from ostinato.utils.spectrogram import spectrogram

HEARD, HOP, WINDOW = 22050, 256, 43844  # what the network hears: Hz, samples a frame, samples of a window
FRAMES, EDGE = 172, 15  # frames of a window; of these, left out at either end, where the network sees too little
FRAME_RATE = HEARD / HOP
SOUNDING, CLEAR, ONSET = 0.3, 0.5, 0.5  # probabilities
SHORTEST = 11  # frames of the shortest note and of the longest gap in one
MAJOR = (0, 2, 4, 5, 7, 9, 11)
MELODIC = ("solo piano", "orchestral", "ambient", "folk", "jazz")
Roll = tuple[np.ndarray, np.ndarray]  # probabilities [frames, 88] that a key sounds, and that it begins


@dataclass(frozen=True)
class Heard:
    """A note: first frame, frames, key (0 is A0)."""

    start: int
    length: int
    key: int


@dataclass(frozen=True)
class Figures:
    """Of one clip, as the top of this file says; nan where there is nothing to take it of."""

    sounding: float
    clear: float
    kept: float
    added: float
    onsets: float
    in_key: float
    length: float
    pulse: float


def load_network(path: Path) -> Callable[[np.ndarray], Roll]:
    """basic-pitch's ONNX file -> audio [n] at HEARD Hz -> its roll."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is missing: pip install onnxruntime") from None
    if not path.is_file():
        raise UserError(f"no file {path}: the top of benchmarks/notes.py says how to get it")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    entry, exits = session.get_inputs()[0].name, ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]

    def listen(audio: np.ndarray) -> Roll:
        """Windows that overlap by what is left out of each."""
        step, lead = (FRAMES - 2 * EDGE) * HOP, EDGE * HOP
        frames = math.ceil(len(audio) / HOP)
        count = max(1, math.ceil(frames / (FRAMES - 2 * EDGE)))
        padded = np.pad(audio, (lead, count * step + WINDOW)).astype(np.float32)
        windows = np.stack([padded[i * step : i * step + WINDOW] for i in range(count)])[..., None]
        sounding, begins = session.run(exits, {entry: windows})
        return tuple(x[:, EDGE:-EDGE].reshape(-1, 88)[:frames] for x in (sounding, begins))  # type: ignore[return-value]

    return listen


def decode_notes(sounding: np.ndarray, begins: np.ndarray) -> list[Heard]:
    """The notes of a roll: each begins at a peak of `begins` and lasts until its key is silent for longer than a gap
    or begins anew (a plain form of arXiv 2203.09893, section 2.3)."""
    beyond = np.pad(begins, ((1, 1), (0, 0)))
    peaks = (begins >= ONSET) & (begins >= beyond[:-2]) & (begins > beyond[2:])
    notes = []
    for key in range(sounding.shape[1]):
        for start, limit in pairwise([*np.flatnonzero(peaks[:, key]), len(sounding)]):
            on = start + np.flatnonzero(sounding[start:limit, key] >= SOUNDING)
            if not len(on):
                continue
            gap = np.flatnonzero(np.diff(on) > SHORTEST)
            end = on[gap[0]] if len(gap) else on[-1]
            if end + 1 - start >= SHORTEST:
                notes.append(Heard(int(start), int(end + 1 - start), key))
    return sorted(notes, key=lambda n: (n.start, n.key))


def key_fit(pitches: np.ndarray) -> tuple[int, float]:
    """Pitches (of which 0 is a C) -> tonic of the major scale that has most of them, and the share that it has."""
    classes = np.bincount(np.asarray(pitches, int) % 12, minlength=12)
    inside = [sum(classes[(tonic + degree) % 12] for degree in MAJOR) for tonic in range(12)]
    return int(np.argmax(inside)), max(inside) / classes.sum()


def pulse_clarity(curve: np.ndarray, rate: float) -> float:
    """The highest autocorrelation of `curve` [frames] at a lag of 1/3 to 1 s, at most 1; nan where nothing changes."""
    x = curve - curve.mean()
    power = float(x @ x)
    lags = range(round(rate / 3), min(round(rate), len(x) // 2) + 1)
    if power < 1e-9 or not lags:
        return math.nan
    # Of the part that overlaps, so that a long lag is not punished for leaving less of it.
    return max(float(x[lag:] @ x[:-lag]) / power * len(x) / (len(x) - lag) for lag in lags)


def figures(roll: Roll, real: Roll | None = None) -> Figures:
    """Of a clip's roll; `kept` and `added` against that of the real clip."""
    sounding, begins = roll
    on = sounding >= SOUNDING
    notes = decode_notes(sounding, begins)
    kept = added = math.nan
    if real:
        frames = min(len(on), len(real[0]))
        there = real[0][:frames] >= SOUNDING
        if there.any():
            kept = float((on[:frames] & there).sum() / there.sum())
            added = float((on[:frames] & ~there).sum() / there.sum())
    return Figures(
        sounding=float(on.sum(1).mean()),
        clear=float((sounding >= CLEAR).sum(1).mean()),
        kept=kept,
        added=added,
        onsets=len(notes) * FRAME_RATE / len(on),
        in_key=key_fit(np.array([n.key + 9 for n in notes]))[1] if len(notes) >= 8 else math.nan,  # key 0 is an A
        length=float(np.median([n.length for n in notes])) / FRAME_RATE if notes else math.nan,
        pulse=pulse_clarity(begins.sum(1), FRAME_RATE),
    )


def table(found: dict[str, list[Figures]]) -> str:
    """Markdown: a line for each source of clips, means and standard errors."""
    names = [f.name.replace("_", " ") for f in fields(Figures)]
    lines = ["| clips | n | " + " | ".join(names) + " |", "| --- " * (len(names) + 2) + "|"]
    for source, rows in found.items():
        cells = []
        for values in np.array([astuple(row) for row in rows]).T:
            there = values[~np.isnan(values)]
            error = there.std(ddof=1) / len(there) ** 0.5 if len(there) > 1 else math.nan
            cells.append(f"{there.mean():.2f} ± {error:.2f}" if len(there) else "")
        lines.append(f"| {source} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(audio: torch.Tensor, sounding: np.ndarray) -> np.ndarray:
    """audio [1, samples], probabilities [frames, 88] -> spectrogram above its piano roll, uint8 [rows, columns, 3]."""
    above = spectrogram(audio, RATE)[:, ::2]
    columns = np.linspace(0, len(sounding) - 1, above.shape[1]).round().astype(int)
    grey = (255 * np.clip(sounding[columns].T[::-1], 0, 1)).round().astype(np.uint8)
    octaves = np.flatnonzero((np.arange(88)[::-1] + 9) % 12 == 0)
    grey[octaves] = np.maximum(grey[octaves], 40)  # a faint line at each C
    below = np.repeat(np.stack([grey] * 3, -1), 2, 0)
    line = np.full((2, *above.shape[1:]), 90, np.uint8)
    return np.pad(np.concatenate([above, line, below]), ((3, 3), (3, 3), (0, 0)))


def generated(folder: Path, kinds: list[str]) -> list[tuple[Path, str]]:
    """The clips of a folder of benchmarks/kinds.py, KIND-SENTENCE-SEED.wav, whose kind is asked for."""
    named = {kind.replace(" ", "-"): kind for kind in kinds}
    clips = [(path, path.stem.rsplit("-", 2)[0]) for path in sorted(folder.glob("*.wav"))]
    found = [(path, named[name]) for path, name in clips if name in named]
    if not found:
        raise UserError(f"no clips of {', '.join(kinds)} in {folder}: benchmarks/kinds.py makes them, in OUTPUT/clips")
    return found


def run(args: argparse.Namespace) -> None:
    listen, codec = load_network(args.network), load_codec(args.codec)
    if codec.sample_rate != RATE:
        raise UserError(f"{args.codec} is at {codec.sample_rate} Hz, the clips here at {RATE}: give another codec")
    size = round(args.seconds * RATE)
    counts = [int(n) for n in args.codebooks.split(",") if n]
    found: dict[str, list[Figures]] = defaultdict(list)
    pictures: dict[str, list[np.ndarray]] = {}

    def hear(audio: torch.Tensor) -> Roll:
        return listen(soxr.resample(audio[0].numpy(), RATE, HEARD))

    real = [r for r in real_clips(args.real, args.seconds, args.real_clips) if r[2] in args.kinds and r[3] == "test"]
    for path, start, kind, _ in track(real, "real music"):
        audio = read_audio(path, RATE)[:, start : start + size]
        roll = hear(audio)
        found["real"].append(figures(roll))
        tiles = [picture(audio, roll[0])]
        codes = codec.encode(audio[None])
        for n in counts:
            made = codec.decode(codes[:, :n])[0, :, :size]
            through = hear(made)
            found[f"through {n} codebook{'s' * (n > 1)}"].append(figures(through, roll))
            if n == max(counts):
                tiles.append(picture(made, through[0]))
        pictures.setdefault(kind, tiles)
    for path, kind in track(generated(args.clips, args.kinds) if args.clips else [], "generated"):
        audio = read_audio(path, RATE)[:, :size]
        roll = hear(audio)
        found["generated"].append(figures(roll))
        if len(pictures.get(kind, [])) == 1 + bool(counts):
            pictures[kind].append(picture(audio, roll[0]))
    print(table(found))
    if args.picture:
        width = max(len(tiles) for tiles in pictures.values())
        whole = [pictures[kind] for kind in args.kinds if len(pictures.get(kind, [])) == width]
        rows = [np.concatenate(tiles, 1) for tiles in whole]
        Image.fromarray(np.concatenate(rows)).save(args.picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="nmp.onnx of basic-pitch")
    parser.add_argument("--real", type=Path, required=True, help="the corpus folder of recipes/pocket")
    parser.add_argument("--clips", type=Path, help="generated clips, as benchmarks/kinds.py names them")
    parser.add_argument("--codec", default="pocket", help="or a folder: what real clips go through")
    parser.add_argument("--codebooks", default="1,12", help="how many of the codec's codebooks, each in turn")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(MELODIC), metavar="KIND")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--real-clips", type=int, default=24, help="of a kind, at most")
    parser.add_argument("--picture", type=Path, help="a PNG")
    try:
        run(parser.parse_args())
    except UserError as error:
        print(f"notes.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
