"""Render public-domain scores of the music21 corpus with General MIDI instruments, as data/scores.csv says.

Beside the columns of tracks.csv a line has `programs` (one GM program per part, from 0), `backing` (`none`, or
`drone`, `octave`, `chords`, `arpeggio` with its GM program: `chords:24`), `drums` (0 or 1), `bpm` (quarter notes per
minute), `transpose` (semitones), `tonic` (pitch class that is heard) and `mode`, `hall` (0 dry, 1 FluidSynth's reverb,
2 a large hall), `seconds` (the longest it gets; the last notes ring on); in takes.csv, `font` (a key of SOUNDFONTS).
`style` is `tune` for what this file arranges, `chip` for chip.py, else one of styles.py; `form` a variety of the style.
Times are in quarter notes from the start of the score, pitches are MIDI numbers.
"""

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 32000  # Hz
TICKS = 480  # MIDI ticks per quarter note
SOUNDFONTS = {  # file, Debian's package of it, name and licence
    "fluid": ("/usr/share/sounds/sf2/FluidR3_GM.sf2", "fluid-soundfont-gm", "FluidR3 GM (MIT)"),
    "musescore": (
        "/usr/share/sounds/sf3/MuseScore_General_Full.sf3",
        "musescore-general-soundfont",
        "MuseScore General HQ (MIT, parts CC0 or public domain)",
    ),
}
BACKING, BASS, DRUMS = 5, 6, 9  # MIDI channels; the parts of the score have 0 to 4


class Trouble(Exception):
    """Something the reader of one line on the terminal can act on."""


@dataclass(frozen=True, order=True)
class Note:
    """One sounding note: start and length in quarter notes."""

    start: float
    length: float
    pitch: int
    velocity: int
    channel: int


@dataclass
class Tune:
    """A score as notes, channel = part from the top; `bars` are the starts of its measures; `meter` as in "6/8"."""

    notes: list[Note]
    bars: list[float]
    meter: str
    end: float


def slug(work: str) -> str:
    """A file name for a work: "oneills1850/0001-0050.abc#2" -> "oneills1850-0001-0050-2"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\.(abc|mxl)\b", "", work.lower()))


def parse(work: str) -> Any:
    """A music21 score from "bach/bwv1.6.mxl" or, the tune numbered 2 of a collection, "oneills1850/0001-0050.abc#2"."""
    try:
        from music21 import converter, corpus
    except ImportError:
        raise Trouble("music21 is missing: pip install music21==10.5.1") from None
    name, _, number = work.partition("#")
    path = Path(corpus.__file__).parent / name
    if not path.exists():
        raise Trouble(f"this music21 has no {name} in its corpus: pip install music21==10.5.1")
    if not number:
        return converter.parse(path, forceSource=True, storePickle=False)
    tunes = re.split(r"^(?=X:)", path.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    return converter.parse(next(t for t in tunes if re.match(rf"X: *0*{number}\b", t)), format="abc")


def read_tune(work: str) -> Tune:
    """The notes of a score, repeats played out where the notation allows it."""
    score = parse(work)
    try:
        score = score.expandRepeats()
    except Exception:  # some transcriptions close a repeat that they never open: play those straight through
        score = parse(work)
    notes: list[Note] = []
    for channel, part in enumerate(score.parts[:5]):
        for n in part.stripTies().flatten().notes:
            if n.quarterLength > 0 and "ChordSymbol" not in n.classes:
                velocity = 80 + round(16 * float(n.beatStrength or 0.25))
                for p in n.pitches:
                    notes.append(Note(float(n.offset), float(n.quarterLength), p.midi, velocity, channel))
    first = score.parts[0]
    bars = [float(m.offset) for m in first.getElementsByClass("Measure")] or [0.0]
    meters = first.flatten().getElementsByClass("TimeSignature")
    return Tune(sorted(notes), bars, meters[0].ratioString if meters else "4/4", float(first.highestTime))


def fit(tune: Tune, bpm: float, seconds: float) -> Tune:
    """At most so many seconds, cut at a bar line; a tune of less than half of that is played twice."""
    room = seconds * bpm / 60
    if tune.end <= room / 2:
        again = [Note(n.start + tune.end, n.length, n.pitch, n.velocity, n.channel) for n in tune.notes]
        bars = tune.bars + [b + tune.end for b in tune.bars]
        return Tune(tune.notes + again, bars, tune.meter, 2 * tune.end)
    if tune.end <= room:
        return tune
    end = max([b for b in tune.bars if b <= room], default=room)
    kept = [
        Note(n.start, min(n.length, end - n.start), n.pitch, n.velocity, n.channel) for n in tune.notes if n.start < end
    ]
    return Tune(kept, [b for b in tune.bars if b < end], tune.meter, end)


def beat_of(meter: str) -> float:
    """Quarter notes in one felt beat: 1.5 in 3/8, 6/8, 9/8 and 12/8, else 1."""
    return 1.5 if meter in ("3/8", "6/8", "9/8", "12/8") else 1.0


def spans(tune: Tune) -> list[tuple[float, float]]:
    """(start, end) of each bar."""
    return [(a, b) for a, b in zip(tune.bars, tune.bars[1:] + [tune.end], strict=True) if b - a > 0.1]


def chords_for(tune: Tune, tonic: int, minor: bool) -> list[int]:
    """One triad a bar, as its root's semitones above the tonic: the one whose notes sound longest in the bar.

    Ties go to the tonic, then to the order of the list; the last bar has the tonic.
    """
    roots = [0, 10, 3, 8, 5] if minor else [0, 7, 5, 9, 2]
    chosen = []
    for a, b in spans(tune):
        weight = np.zeros(12)
        for n in tune.notes:
            weight[(n.pitch - tonic) % 12] += max(0.0, min(n.start + n.length, b) - max(n.start, a))
        chosen.append(max(roots, key=lambda r: sum(weight[t] for t in triad(r, minor)) + 0.25 * (r == 0)))
    return chosen[:-1] + [0]


def triad(root: int, minor: bool) -> list[int]:
    """Root, third and fifth on a degree of the key, in semitones above the tonic modulo 12."""
    small = root in ((0, 5, 7, 2) if minor else (2, 4, 9))
    return [root % 12, (root + (3 if small else 4)) % 12, (root + 7) % 12]


def backing(tune: Tune, kind: str, tonic: int, minor: bool) -> list[Note]:
    """Notes of the accompaniment, softer than the tune: see the top of this file for the kinds."""
    low = 48 + (tonic - 48) % 12 if (tonic - 48) % 12 < 7 else 36 + (tonic - 48) % 12
    if kind == "octave":
        return [Note(n.start, n.length, n.pitch - 12, n.velocity - 15, BACKING) for n in tune.notes]
    if kind == "drone":
        step = 4 * beat_of(tune.meter)
        times = np.arange(0, tune.end, step)
        return [Note(t, min(step, tune.end - t), p, 52, BACKING) for t in times for p in (low, low + 7)]
    notes, beat = [], beat_of(tune.meter)
    for (a, b), root in zip(spans(tune), chords_for(tune, tonic % 12, minor), strict=True):
        tones = sorted(54 + (tonic + t - 54) % 12 for t in triad(root, minor))
        notes.append(Note(a, (b - a) * 0.95, 36 + (tonic + root) % 12, 66, BASS))
        if kind == "chords":
            notes += [Note(t, 0.8 * beat, p, 50, BACKING) for t in np.arange(a, b, beat) for p in tones]
        else:
            up = [tones[0], tones[1], tones[2], tones[1]] if beat == 1 else tones
            times = np.arange(a, b, 0.5)
            notes += [Note(t, 0.5, up[i % len(up)], 56, BACKING) for i, t in enumerate(times)]
    return notes


def drum_notes(tune: Tune) -> list[Note]:
    """A plain beat: bass drum on odd beats, snare on even ones, a closed hi-hat on every eighth."""
    notes, beat = [], beat_of(tune.meter)
    for a, b in spans(tune):
        for i, t in enumerate(np.arange(a, b, beat)):
            notes.append(Note(t, 0.2, 38 if i % 2 else 36, 62 if i % 2 else 74, DRUMS))
        notes += [Note(t, 0.2, 42, 48, DRUMS) for t in np.arange(a, b, 0.5)]
    return notes


def midi(notes: list[Note], programs: dict[int, int], bpm: float) -> bytes:
    """A type-0 MIDI file."""
    events = []
    for n in notes:
        on, off = round(n.start * TICKS), round((n.start + n.length) * TICKS) - 1
        events.append((on, 1, bytes([0x90 | n.channel, n.pitch, max(1, min(127, n.velocity))])))
        events.append((max(off, on + 1), 0, bytes([0x80 | n.channel, n.pitch, 0])))
    track = bytearray(b"\0\xff\x51\x03" + round(60e6 / bpm).to_bytes(3, "big"))
    for channel, program in sorted(programs.items()):
        track += bytes([0, 0xC0 | channel, program])
    now = 0
    for time, _, message in sorted(events):
        delta, now = time - now, time
        groups = [delta & 127]
        while delta := delta >> 7:
            groups.append(delta & 127 | 128)
        track += bytes(reversed(groups)) + message
    track += b"\0\xff\x2f\0"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def placed(row: dict[str, str]) -> Tune:
    """The tune of one line of scores.csv, as long and as high as the line says."""
    tune = fit(read_tune(row["path"]), float(row["bpm"]), float(row["seconds"]))
    moved = [Note(n.start, n.length, n.pitch + int(row["transpose"]), n.velocity, n.channel) for n in tune.notes]
    return Tune(moved, tune.bars, tune.meter, tune.end)


def arrange(row: dict[str, str]) -> bytes:
    """The MIDI file of a line of scores.csv whose style is `tune`."""
    tune = placed(row)
    programs = {c: int(p) for c, p in enumerate(row["programs"].split())}
    kind, _, program = row["backing"].partition(":")
    notes = list(tune.notes)
    if kind != "none":
        notes += backing(tune, kind, int(row["tonic"]), row["mode"] == "minor")
        programs |= {BACKING: int(program), BASS: int(program)}
    if row["drums"] == "1":
        notes += drum_notes(tune)
    return midi(notes, programs, float(row["bpm"]))


def synthesize(data: bytes, hall: int, font: str = "fluid") -> np.ndarray:
    """MIDI to mono samples [n], float32, peak 0.7, silence at both ends taken off; font: a key of SOUNDFONTS."""
    sounds, package, _ = SOUNDFONTS[font]
    if not Path(sounds).exists():
        raise Trouble(f"no {sounds}: apt-get install {package}")
    reverb = {0: ["-R", "0"], 1: ["-R", "1"]}.get(hall)
    reverb = reverb or ["-R", "1", "-o", "synth.reverb.room-size=0.9", "-o", "synth.reverb.level=0.9"]
    with tempfile.TemporaryDirectory() as folder:
        score, wave = Path(folder) / "score.mid", Path(folder) / "score.wav"
        score.write_bytes(data)
        command = [
            "fluidsynth",
            "-ni",
            "-q",
            "-r",
            str(RATE),
            "-g",
            "0.4",
            "-o",
            f"synth.dynamic-sample-loading={int(sounds.endswith('.sf3'))}",  # which would all be decompressed
            *reverb,
            "-F",
            str(wave),
            "-T",
            "wav",
            "-O",
            "float",
            sounds,
            str(score),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True)
            samples = soundfile.read(wave, dtype="float32", always_2d=True)[0].mean(axis=1)
        except FileNotFoundError:
            raise Trouble("no fluidsynth here: apt-get install fluidsynth fluid-soundfont-gm") from None
        except (subprocess.CalledProcessError, soundfile.SoundFileError) as problem:
            raise Trouble(f"fluidsynth could not render a score: {problem}") from None
    peak = float(np.abs(samples).max(initial=0))
    if peak == 0:
        raise Trouble("fluidsynth rendered silence: is the sound font whole?")
    heard = np.flatnonzero(np.abs(samples) > 0.003 * peak)
    return (samples[heard[0] : heard[-1] + 1] * (0.7 / peak)).astype(np.float32)
