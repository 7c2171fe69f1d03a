"""Turn notes into sound: the lines of scores.csv, and MIDI files and tracker modules of packages, as FLAC."""

import csv
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from music import chip, scores, styles
from scipy.signal import butter, sosfiltfilt

MODULES = (".mod", ".xm", ".it", ".s3m")
SYMBOLIC = (".mid", *MODULES)  # what a package has as notes rather than as sound
LONGEST = 300  # seconds of a module that are rendered
HIGHPASS = butter(2, 20, "highpass", fs=scores.RATE, output="sos")
Row = dict[str, str]


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Mono, 16 bit, scores.RATE, by way of a temporary name. Nothing is kept below 20 Hz: square waves, of a chip or a
    sound font, have an offset, which a model learns, too (LOG.md, 2026-11-29)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    soundfile.write(part, sosfiltfilt(HIGHPASS, samples), scores.RATE, format="FLAC", subtype="PCM_16")
    part.replace(path)


def perform(row: Row) -> np.ndarray:
    """The sound [n] of a line of scores.csv."""
    bpm = float(row["bpm"])
    if row["style"] == "chip":
        tune, duty = scores.placed(row), float(row["form"])
        return chip.voices(tune, int(row["tonic"]), row["mode"] == "minor", bpm, duty, row["drums"] == "1")
    data = scores.arrange(row) if row["style"] == "tune" else scores.midi(*styles.play(row), bpm)
    return scores.synthesize(data, int(row["hall"]), row.get("font", "fluid"))


def module(path: Path) -> np.ndarray:
    """A tracker module played once: mono samples [n], peak 0.7."""
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "module.wav"
        command = ["openmpt123", "--batch", "--quiet", "--samplerate", str(scores.RATE), "--channels", "2"]
        command += ["--end-time", str(LONGEST), "--output", str(wave), str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            raise scores.Trouble("no openmpt123 here: apt-get install openmpt123") from None
        except subprocess.CalledProcessError as problem:
            raise scores.Trouble(f"openmpt123 could not play {path}: {problem}") from None
        samples = soundfile.read(wave, dtype="float32", always_2d=True)[0].mean(axis=1)
    return (samples * (0.7 / max(1e-6, float(np.abs(samples).max(initial=0))))).astype(np.float32)


def sound(source: Path) -> np.ndarray:
    """A package's MIDI file or module as samples [n]."""
    return scores.synthesize(source.read_bytes(), 1) if source.suffix.lower() == ".mid" else module(source)


def render_all(out: Path, rows: list[Row], bar: Any, workers: int = 2) -> None:
    """Make each row's OUT/`file` that is not there yet: from the score it names or, with `notes`, from OUT/`notes`.

    music21 holds the interpreter while it reads, FluidSynth is a process of its own: threads are enough.
    """
    task = bar.add_task("scores", total=len(rows))

    def one(row: Row) -> None:
        path = out / row["file"]
        if not path.exists():
            write_flac(path, sound(out / row["notes"]) if "notes" in row else perform(row))
        bar.advance(task)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, rows))


def read_scores(listed: Path) -> list[Row]:
    """The lines of scores.csv or takes.csv, each with `file`, its path relative to OUT."""
    with listed.open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    for r in rows:
        name = r["path"] if not r["form"] else f"{r['path']} {r['style']} {r['form']}"
        r["file"] = f"scores/{scores.slug(name).strip('-')}.flac"
    return rows
