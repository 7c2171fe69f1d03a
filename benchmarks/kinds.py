"""Does a model play what the sentence asks for? Fifty sentences of ten kinds, five each, told apart by machine.

    python benchmarks/kinds.py --real CORPUS --listener efficientat:mn04_as_mAP_432.pt --output kinds
    python benchmarks/kinds.py --seeds 4                      # 200 clips; sound faults counted

None of the sentences is a caption of the training set. Each clip is described by onset rate, spectral centroid,
harmonicity, tempo and level (`evaluation.descriptors`), standardised; with `--listener`, also by the mean over the clip
of that network's embedding. A clip is given to the kind whose mean it is nearest to, in units of the spread within
kinds (linear discriminant analysis, the covariance shrunk by 0.3 to its diagonal):
- among themselves: the means are of the generated clips of all other sentences, so that a sentence is never its own
  yardstick;
- by real music (`--real`, the folder that recipes/pocket/1_corpus.py wrote): the means are of real clips through the
  model's codec, three at most of each piece, by the `kind` of its captions.jsonl; the same judge on clips of the test
  split, through the codec too, is the ceiling.
Chance is 10 %. Intervals are Wilson's, 95 %, with the sentence's five kin taken for independent.

`--picture FILE` draws a generated clip of each kind (left) beside a real one of the test split (right).

Clips and their descriptors are kept in `--output`: the same command again makes only what is missing. Another model,
other settings or another length want another `--output`.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

import ostinato
from ostinato.evaluation.degenerate import count_faults
from ostinato.evaluation.descriptors import describe
from ostinato.evaluation.networks.base import Listener, hear, load_listener
from ostinato.utils.audio import read_audio
from ostinato.utils.spectrogram import spectrogram

PROMPTS = {
    "solo piano": (
        "Gentle solo piano, slow and thoughtful",
        "A lone piano plays a quiet melody",
        "Solo piano piece, lively, bright",
        "Someone plays the piano in an empty hall",
        "Unaccompanied piano, tender and sad",
    ),
    "orchestral": (
        "A grand orchestra with sweeping strings and brass",
        "Epic orchestral theme for a fantasy adventure",
        "Symphonic music, strings and french horns, majestic",
        "A full orchestra plays a heroic march",
        "Warm orchestral strings with woodwinds",
    ),
    "metal": (
        "Heavy metal with distorted guitars and double bass drums",
        "Aggressive thrash metal riff",
        "Slow doom metal, very distorted guitar",
        "Fast metal with loud guitars",
        "A heavy guitar riff over pounding drums",
    ),
    "ambient": (
        "Calm ambient soundscape, slowly drifting",
        "Dark ambient drone for an empty space station",
        "Soft ambient pads without any beat",
        "Quiet atmospheric ambient music to sleep to",
        "Ethereal, floating ambient textures",
    ),
    "chiptune": (
        "8-bit chiptune from an old video game console",
        "Retro chiptune with square wave lead",
        "Cheerful chip music for a platform game",
        "Fast 8-bit tune with arpeggios",
        "Bleepy computer game music of the eighties",
    ),
    "techno": (
        "Driving techno with a four on the floor kick",
        "Energetic dance techno, synthesizers and drums",
        "Hard techno at a fast tempo",
        "Club techno track with a pumping bass",
        "Hypnotic techno with acid synthesizer",
    ),
    "folk": (
        "A folk tune played on the fiddle",
        "Irish jig on flute and accordion",
        "Traditional folk dance, lively",
        "An old ballad tune on acoustic guitar",
        "A cheerful reel for fiddle and guitar",
    ),
    "jazz": (
        "A small jazz combo with walking bass and ride cymbal",
        "Swinging jazz with saxophone and piano",
        "Slow jazz ballad, muted trumpet",
        "Jazz trio, piano, double bass and brushes",
        "Blues in a jazz club with a saxophone solo",
    ),
    "percussion": (
        "Only drums, a funky drum groove",
        "Taiko drums, powerful percussion",
        "Hand percussion, congas and shakers",
        "A drum kit solo with no other instruments",
        "Tribal percussion ensemble",
    ),
    "tension": (
        "Suspenseful film music with tremolo strings",
        "Tense, dark underscore for a thriller scene",
        "Ominous low brass and timpani, building tension",
        "Scary music with dissonant strings",
        "A nervous ostinato in the low strings, film suspense",
    ),
}
KINDS = tuple(PROMPTS)
RATE, BATCH = 32000, 10


def generate(out: Path, model: str | None, seconds: float, seeds: int) -> list[tuple[Path, str, int]]:
    """Write OUT/clips/KIND-SENTENCE-SEED.wav where they are missing; (file, kind, sentence) of all."""
    clips = [
        (out / "clips" / f"{kind.replace(' ', '-')}-{i}-{seed}.wav", kind, i)
        for seed in range(seeds)
        for kind in KINDS
        for i in range(5)
    ]
    (out / "clips").mkdir(parents=True, exist_ok=True)
    # Whole batches, whatever is missing of them: row j of a batch draws from its seed + j.
    todo = [i for i in range(0, len(clips), BATCH) if not all(path.is_file() for path, *_ in clips[i : i + BATCH])]
    player = ostinato.load(model) if todo else None
    for i in track(todo, "generating", disable=not todo):
        batch = clips[i : i + BATCH]
        made = player.generate([PROMPTS[kind][sentence] for _, kind, sentence in batch], seconds, i)  # type: ignore[union-attr]
        for (path, *_), clip in zip(batch, made, strict=True):  # type: ignore[arg-type]
            clip.save(path)
    return clips


def real_clips(corpus: Path, seconds: float, most: int) -> list[tuple[Path, int, str, str]]:
    """(file, first sample, kind, split) of up to three clips a piece, at most `most` of a kind and split."""
    rows = [json.loads(line) for line in (corpus / "captions.jsonl").read_text().splitlines()]
    found: list[tuple[Path, int, str, str]] = []
    counts: Counter[tuple[str, str]] = Counter()
    for i in np.random.default_rng(0).permutation(len(rows)):
        kind, split, path = rows[i]["kind"], rows[i]["split"], corpus / rows[i]["path"]
        if kind not in KINDS or counts[kind, split] >= most:
            continue
        spare = read_audio(path, RATE).shape[1] - round(seconds * RATE)
        starts = sorted({round(share * spare) for share in (0.2, 0.5, 0.8)}) if spare >= 0 else []
        found += [(path, start, kind, split) for start in starts]
        counts[kind, split] += len(starts)
    return found


def features(audio: np.ndarray, listener: Listener | None) -> list[float]:
    d = describe(audio, RATE)
    rate, centroid, harmonicity, tempo, level = astuple(d)
    out = [math.log1p(rate), math.log(centroid + 50), harmonicity, math.log1p(tempo), level]
    if listener:
        out += hear(listener, torch.from_numpy(audio), RATE).mean(0).tolist()
    return out


class Memory:
    """What was worked out the last time, by key, in a file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path
        self.known = dict(json.loads(line) for line in path.read_text().splitlines()) if path.is_file() else {}

    def get(self, key: str, make: Callable[[], list[float]]) -> list[float]:
        if key not in self.known:
            self.known[key] = make()
            with self.path.open("a") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]


def judge(x: np.ndarray, kinds: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rows of y -> the kind (a number) whose mean among x is nearest, in units of the spread within kinds."""
    means = np.stack([x[kinds == k].mean(0) for k in range(len(KINDS))])
    within = x - means[kinds]
    covariance = within.T @ within / max(1, len(x) - len(KINDS))
    diagonal = np.diag(np.diag(covariance) + 1e-6 * np.trace(covariance) / len(covariance) + 1e-9)
    inverse = np.linalg.inv(0.7 * covariance + 0.3 * diagonal)
    apart = y[:, None] - means
    return np.einsum("ykd,de,yke->yk", apart, inverse, apart).argmin(1)


def confusion(truth: np.ndarray, told: np.ndarray, title: str) -> str:
    n, right = len(truth), int((truth == told).sum())
    p, z = right / n, 1.96
    middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    lines = [
        f"\n{title}: {right} of {n} right, {100 * p:.0f} % [{100 * low:.0f}, {100 * high:.0f}], chance 10 %\n",
        "| asked for | " + " | ".join(KINDS) + " |",
        "| --- " * (len(KINDS) + 1) + "|",
    ]
    for k, kind in enumerate(KINDS):
        row = [int(((truth == k) & (told == j)).sum()) for j in range(len(KINDS))]
        lines.append(
            f"| {kind} | " + " | ".join(f"**{c}**" if j == k else f"{c or ''}" for j, c in enumerate(row)) + " |"
        )
    return "\n".join(lines)


def draw(clips: list, real: list, seconds: float, path: Path) -> None:
    """Two kinds a row: generated, real, generated, real."""
    size, tiles = round(seconds * RATE), []
    for kind in KINDS:
        made = read_audio(next(c[0] for c in clips if c[1] == kind), RATE)[:, :size]
        file, start = next((r[0], r[1]) for r in real if r[2] == kind)
        pair = [spectrogram(audio, RATE)[:, ::3] for audio in (made, read_audio(file, RATE)[:, start : start + size])]
        width = min(picture.shape[1] for picture in pair)
        tiles.append(np.concatenate([np.pad(picture[:, :width], ((4, 4), (3, 3), (0, 0))) for picture in pair], 1))
    rows = [np.concatenate(tiles[i : i + 2], 1) for i in range(0, len(tiles), 2)]
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: pocket")
    parser.add_argument("--output", type=Path, default=Path("kinds"))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1, help="clips of each sentence")
    parser.add_argument("--listener", help="efficientat:FILE, jamendo:FILE, or openl3, passt, vggish, clap")
    parser.add_argument("--real", type=Path, help="the folder that recipes/pocket/1_corpus.py wrote")
    parser.add_argument("--picture", type=Path, help="with --real: mel spectrograms, a PNG")
    parser.add_argument("--real-clips", type=int, default=40, help="of a kind and split, at most")
    args = parser.parse_args()
    clips = generate(args.output, args.model, args.seconds, args.seeds)
    listener = load_listener(args.listener) if args.listener else None
    heard = Path(args.listener.split(":")[-1]).stem if args.listener else "plain"
    memory = Memory(args.output / f"features-{heard}.jsonl")

    codec = ostinato.load(args.model).codec
    size = round(args.seconds * RATE)

    def of(path: Path, start: int = 0, real: bool = False) -> list[float]:
        def work() -> list[float]:
            audio = read_audio(path, RATE)[None, :, start : start + size]
            heard = codec.decode(codec.encode(audio))[..., :size] if real else audio
            return features(heard[0, 0].numpy(), listener)

        return memory.get(f"{path.resolve()}@{start}@{size}{'@codec' if real else ''}", work)

    x = np.array([of(path) for path, _, _ in track(clips, "listening")])
    truth = np.array([KINDS.index(kind) for _, kind, _ in clips])
    sentence = np.array([KINDS.index(kind) * 5 + i for _, kind, i in clips])
    scale = x.mean(0), x.std(0) + 1e-9
    x = (x - scale[0]) / scale[1]
    means = ["| kind | onsets a second | centroid, Hz | harmonicity | level, dB |", "| --- " * 5 + "|"]
    for kind in KINDS:
        d = np.array([of(path)[:5] for path, name, _ in clips if name == kind]).mean(0)
        means.append(f"| {kind} | {math.expm1(d[0]):.1f} | {math.exp(d[1]) - 50:.0f} | {d[2]:.2f} | {d[4]:.0f} |")
    print("\n".join(means))
    told = np.empty(len(x), int)
    for s in np.unique(sentence):
        told[sentence == s] = judge(x[sentence != s], truth[sentence != s], x[sentence == s])
    print(confusion(truth, told, "Among themselves"))
    if args.real:
        real = real_clips(args.real, args.seconds, args.real_clips)
        z = np.array([of(path, start, True) for path, start, _, _ in track(real, "listening to real music")])
        kinds, held = np.array([KINDS.index(r[2]) for r in real]), np.array([r[3] == "test" for r in real])
        y = np.array([of(path) for path, _, _ in clips])
        # Each set by its own mean and spread: how the two differ as wholes is not what is asked here.
        z, y = (z - z[~held].mean(0)) / (z[~held].std(0) + 1e-9), (y - y.mean(0)) / (y.std(0) + 1e-9)
        told = judge(z[~held], kinds[~held], z[held])
        print(confusion(kinds[held], told, "Real test clips, judged by real training clips"))
        told = judge(z[~held], kinds[~held], y)
        print(confusion(truth, told, "Generated clips, judged by real training clips"))
        if args.picture:
            draw(clips, [r for r in real if r[3] == "test"], args.seconds, args.picture)
    found = count_faults([path for path, _, _ in clips], RATE)
    print(f"\nFaults of {found.clips} clips: " + ", ".join(f"{name} {n}" for name, n in found.counts.items()))


if __name__ == "__main__":
    main()
