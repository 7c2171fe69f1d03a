"""Does the stage `voices` hear voices? Clips of instrumental music, each alone and with a synthesised voice over it.

    python benchmarks/voices.py MUSIC OUT efficientat:FILE

MUSIC: a folder of music without voices. The labels are true by how the clips are made, and OUT/labels.csv says how each
was: espeak-ng (which has to be installed) speaks, or sings words at changing pitches, at 0 and -10 dB of the music's
level. benchmarks/voices.csv is the list that docs/curate.md reports.
"""

import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from ostinato.curate.voices import voice_classes, voice_probabilities
from ostinato.evaluation.networks.base import load_listener
from ostinato.utils.audio import AUDIO_SUFFIXES, read_audio

RATE, SECONDS = 44100, 30.0
SPOKEN = "The morning came slowly over the hills, and nobody in the village had slept. We walked along the river."
SUNG = ["lah", "loo", "mah", "ree", "noh", "sah", "day", "vee", "lah", "loo", "mah", "ree"]
THRESHOLDS = ((0.05, 0.05), (0.1, 0.05), (0.1, 0.1), (0.15, 0.05), (0.15, 0.15), (0.3, 0.3), (0.5, 0.5))


def espeak(text: str, voice: str, pitch: int, speed: int, semitones: int = 0) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", file.name, text]
        subprocess.run(command, check=True)
        audio, rate = sf.read(file.name, dtype="float32")
    return soxr.resample(audio, rate, RATE * 2 ** (-semitones / 12)).astype(np.float32)


def voice(kind: str, rng: random.Random) -> np.ndarray:
    if kind == "speech":
        return espeak(SPOKEN, rng.choice(["en+m3", "en+f3", "de", "fr"]), rng.randint(30, 70), rng.randint(130, 170))
    notes = [
        espeak(word, rng.choice(["en+f2", "en+m3"]), rng.choice([10, 25, 50, 75]), 80, rng.choice([0, 2, 4, 7, 9, 12]))
        for word in 3 * SUNG
    ]
    return np.concatenate(notes)


def main(music: Path, out: Path, spec: str) -> None:
    rng, tagger = random.Random(1), load_listener(spec)
    classes = voice_classes(tagger.labels, spec)  # type: ignore[attr-defined]
    out.mkdir(parents=True, exist_ok=True)
    rows, heard = [], {}
    for number, path in enumerate(p for p in sorted(music.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES):
        length = sf.info(path).duration
        if length < SECONDS + 4:
            continue
        start = rng.uniform(2, length - SECONDS - 2)
        plain = read_audio(path, RATE, start, SECONDS)[0].numpy()
        clips = {"none": plain}
        for kind in ("speech", "sung"):
            over = np.resize(voice(kind, rng), len(plain))
            even = np.sqrt(np.mean(plain**2) / np.mean(over**2))
            clips |= {f"{kind} {db} dB": plain + over * even * 10 ** (db / 20) for db in (0, -10)}
        for kind, audio in clips.items():
            audio = audio / max(1.0, float(np.abs(audio).max()))
            name = f"{number:03d} {kind}.flac"
            sf.write(out / name, audio, RATE)
            rows.append((name, int(kind != "none"), kind, path.name, f"{start:.2f}"))
            heard.setdefault(kind, []).append(voice_probabilities(tagger, classes, audio, RATE, "cpu"))
    with (out / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "voice", "how", "source", "start"), *rows])
    for threshold, singing in THRESHOLDS:
        counts = {kind: sum(v >= threshold or s >= singing for v, s in found) for kind, found in heard.items()}
        told = ", ".join(f"{kind}: {count} of {len(heard[kind])}" for kind, count in counts.items())
        print(f"a voice from {threshold:g}, singing from {singing:g} on is heard in  {told}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
