"""Scores of the music21 corpus, and how each is played.

A caption says only what the score and the chosen settings make true: the key is named only where the notation, the last
bass note and the Krumhansl key finder agree.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from music.scores import Tune, beat_of, fit, parse, read_tune

SECONDS = 41
NAMES = ["C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B"]
# words, GM programs of soprano to bass, semitones up, whether it can be called gentle
CHOIRS = [
    ("church organ", "19 19 19 19", 0, False),
    ("church organ", "19 19 19 19", 0, False),
    ("piano", "0 0 0 0", 0, True),
    ("piano", "0 0 0 0", 0, True),
    ("string quartet", "40 40 41 42", 0, True),
    ("string ensemble", "48 48 48 48", 0, True),
    ("string ensemble", "48 48 48 48", 0, True),
    ("brass section", "61 61 61 61", 0, False),
    ("harpsichord", "6 6 6 6", 0, False),
    ("acoustic guitar", "24 24 24 24", 0, True),
    ("woodwind quartet", "73 68 71 70", 0, True),
    ("recorder consort", "74 74 74 74", 5, True),
    ("music box", "10 10 10 10", 12, True),
    ("harp", "46 46 46 46", 0, True),
    ("vibraphone", "11 11 11 11", 5, True),
    ("accordion", "21 21 21 21", 0, False),
    ("celesta", "8 8 8 8", 12, True),
    ("saxophone quartet", "64 65 66 67", 0, False),
    ("warm synth pad", "89 89 89 89", 0, True),
    ("pizzicato strings", "45 45 45 45", 0, True),
    ("8-bit chiptune square waves", "80 80 80 80", 0, False),
]
# words, GM program, middle of its range, whether it can be called gentle, what may accompany it: (words, program)
PIANO, GUITAR, HARP, STRINGS = ("piano", 0), ("acoustic guitar", 24), ("harp", 46), ("string", 48)
LEADS = [
    ("piano", 0, 70, True, [PIANO]),
    ("piano", 0, 70, True, [PIANO]),
    ("acoustic guitar", 24, 62, True, [GUITAR]),
    ("acoustic guitar", 25, 62, True, [GUITAR]),
    ("flute", 73, 77, True, [PIANO, GUITAR, HARP]),
    ("flute", 73, 77, True, [STRINGS, GUITAR]),
    ("violin", 40, 73, False, [PIANO, GUITAR]),
    ("fiddle", 110, 71, False, [GUITAR, ("accordion", 21)]),
    ("cello", 42, 52, True, [PIANO, HARP]),
    ("recorder", 74, 77, True, [("harpsichord", 6), GUITAR]),
    ("harpsichord", 6, 68, False, [("harpsichord", 6)]),
    ("music box", 10, 82, True, [("music box", 10)]),
    ("harp", 46, 67, True, [HARP]),
    ("church organ", 19, 69, False, [("church organ", 19)]),
    ("accordion", 21, 70, False, [("accordion", 21), GUITAR]),
    ("banjo", 105, 64, False, [GUITAR]),
    ("clarinet", 71, 67, True, [PIANO, STRINGS]),
    ("oboe", 68, 72, True, [STRINGS]),
    ("trumpet", 56, 68, False, [PIANO, ("brass section", 61)]),
    ("pan flute", 75, 76, True, [GUITAR, ("warm synth pad", 89)]),
    ("glockenspiel", 9, 88, True, [("vibraphone", 11)]),
    ("marimba", 12, 67, True, [("marimba", 12)]),
    ("8-bit chiptune square lead", 80, 74, False, [("square wave", 80)]),
    ("8-bit chiptune square lead", 80, 74, False, [("square wave", 80)]),
    ("saw synth lead", 81, 70, False, [("warm synth pad", 89), ("synth bass", 38)]),
    ("bagpipe", 109, 70, False, [("bagpipe", 109)]),
    ("hammered dulcimer", 15, 70, True, [GUITAR]),
    ("distorted electric guitar", 30, 62, False, [("distorted electric guitar", 30)]),
    ("electric piano", 4, 66, True, [("electric piano", 4)]),
    ("koto", 107, 68, True, [("koto", 107)]),
]
HALLS = [", dry sound", "", ", in a large echoing hall"]  # by `hall`


@dataclass
class Score:
    """A candidate: what it is and what may be said of it; `mode` is empty where the key is in doubt."""

    work: str
    title: str
    genre: str
    tune: Tune
    tonic: int
    mode: str
    contour: str


def describe(work: str, title: str, genre: str) -> Score:
    """Read a score; `contour` is its first intervals, the same for two versions of one melody."""
    score, tune = parse(work), read_tune(work)
    keys = score.parts[0].flatten().getElementsByClass("Key")
    found = score.analyze("key")
    key = keys[0] if keys and "chorale" not in genre else found
    lowest = max(n.channel for n in tune.notes)
    last = [n for n in tune.notes if n.channel == lowest][-1].pitch % 12
    near = {"major": "major", "mixolydian": "major", "minor": "minor", "dorian": "minor"}.get(key.mode, "")
    sure = last == key.tonic.pitchClass == found.tonic.pitchClass and near == found.mode
    return Score(work, title, genre, tune, key.tonic.pitchClass, key.mode if sure else "", contour_of(tune))


def contour_of(tune: Tune) -> str:
    """The first intervals of the melody."""
    top = [n.pitch for n in tune.notes if n.channel == 0][:9]
    return " ".join(str(b - a) for a, b in pairwise(top))


def chorales(root: Path, rng: random.Random) -> Iterator[Score]:
    """Bach's four-part chorales, shuffled."""
    for path in rng.sample(paths := sorted((root / "bach").glob("*.mxl")), len(paths)):
        work = f"bach/{path.name}"
        parts = [p.partName or "" for p in parse(work).parts]
        if [p[:1] for p in parts] == list("SATB"):
            yield describe(work, f"Chorale BWV {path.stem.removeprefix('bwv')}", "Bach chorale")


def tunes(root: Path, rng: random.Random) -> Iterator[Score]:
    """Single tunes of O'Neill's, Ryan's and Aird's books, shuffled."""
    listed = []
    for path in sorted(p for book in ("oneills1850", "ryansMammoth", "airdsAirs") for p in root.glob(f"{book}/*.abc")):
        for text in re.split(r"^(?=X:)", path.read_text(encoding="utf-8", errors="replace"), flags=re.M):
            if text.startswith("X:"):
                listed.append((f"{path.parent.name}/{path.name}", text))
    rng.shuffle(listed)
    for name, text in listed:
        head = dict(reversed(re.findall(r"^([XTRM]): *(.+?) *$", text, flags=re.M)))
        if not {"X", "T", "M"} <= set(head):
            continue
        number = int(re.match(r"\d+", head["X"]).group())
        title, _, kind = head["T"].strip('." ').partition(" -- ")
        genre = genre_of(name, number, f"{head.get('R', kind)} {title}".lower(), head["M"])
        work = name if name.startswith("ryans") else f"{name}#{number}"
        if title.isupper():
            title = re.sub(r"['’]\w", lambda m: m[0].lower(), title.title())
        yield describe(work, title, genre)


def genre_of(name: str, number: int, kind: str, meter: str) -> str:
    """What sort of tune its book says it is: "Irish jig", "hornpipe", "old dance tune"."""
    land = "Irish " if name.startswith("oneills") else ""
    for word in ("slip jig", "jig", "reel", "hornpipe", "strathspey", "waltz", "march", "highland fling"):
        if word in kind.replace("slipjig", "slip jig"):
            return land + word
    if land and number <= 625:
        return "Irish air"
    return (land or "old ") + ("tune in three-four time" if meter == "3/4" else "tune")


def pace(notes_a_second: float) -> str:
    """One word for how fast the notes follow each other."""
    return "slow" if notes_a_second < 2.3 else "fast" if notes_a_second > 4.6 else "moderate"


def mood(speed: str, mode: str, gentle: bool) -> list[str]:
    """Words that tempo, mode and a soft or a hard sound together allow."""
    major = mode in ("major", "mixolydian")
    if speed == "slow" and major:
        return ["calm", "peaceful"] if gentle else ["stately"]
    if speed == "slow":
        return ["sad", "melancholy"] if mode else ["calm"] if gentle else []
    if speed == "fast":
        return ["lively", "cheerful"] if major else ["lively", "restless"] if mode else ["lively"]
    return ["light", "gentle"] if gentle and mode == "major" else []


def kind_of(words: str, genre: str) -> str:
    """What sort of music someone would call it who types one word."""
    if words == "piano":
        return "solo piano"
    if "8-bit" in words:
        return "chiptune"
    if words.startswith(("saw", "distorted", "warm synth")):
        return "electronic"
    return "classical" if genre == "Bach chorale" else "folk"


def article(words: str) -> str:
    """The words after a or an."""
    return ("an " if words[0].lower() in "aeiou8" else "a ") + words


def captions(
    score: Score,
    words: str,
    with_: str,
    solo: bool,
    speed: str,
    bpm: int,
    row: dict[str, str],
    feelings: list[str],
    rng: random.Random,
) -> list[str]:
    """Four ways to ask for it, from a few words to a sentence, every one of them true."""
    hall = HALLS[int(row["hall"])]
    key = f" in {NAMES[int(row['tonic'])]} {score.mode}" if score.mode else ""
    feel = rng.choice(feelings) if feelings else ""
    tempo = "" if speed == "moderate" else speed
    alone = "solo " if solo else ""
    medium = "at a moderate tempo" if speed == "moderate" else ""
    short = " ".join(filter(None, [feel or tempo, alone + words]))
    if kind_of(words, score.genre) == "folk" and rng.random() < 0.6:
        short = " ".join(
            filter(None, [feel or tempo, rng.choice([f"folk tune on {words}", f"folk music with {words}"])])
        )
    if score.genre == "Bach chorale":
        second = article(" ".join(filter(None, [tempo, "chorale for", words, medium]))) + hall
        kind = "classical"
    else:
        second = " ".join(filter(None, [article(" ".join(filter(None, [feel or tempo, score.genre]))), "on", words]))
        second += with_ + f", {bpm} bpm"
        kind = "folk"
    opening = " ".join(filter(None, [tempo, score.genre]))
    by = f"by {article(words)}" if words.endswith(("quartet", "ensemble", "section", "consort")) else f"on {words}"
    third = f"{article(opening)} played {by}{with_}{key}"
    third += f", {' and '.join(feelings)}" if feelings else f", {medium}" if medium else ""
    tags = [
        alone + words,
        kind,
        with_.removeprefix(" with").strip(),
        tempo or "mid-tempo",
        f"{score.mode} key" if score.mode in ("major", "minor") else "",
        *feelings[:1],
    ]
    sentence = third[:1].upper() + third[1:] + hall + f", around {bpm} beats per minute."
    return [short, second, sentence, ", ".join(filter(None, tags))]


def split_of(key: str) -> str:
    """The split of everything that shares a key: 5 in 100 for test, 5 for validation."""
    part = int.from_bytes(hashlib.md5(f"pocket:{key}".encode()).digest()) % 1000
    return "test" if part < 50 else "validation" if part < 100 else "train"


def settle(score: Score, choice: tuple, rng: random.Random) -> dict[str, str] | None:
    """One line of scores.csv; None if the score is too short or cannot be played so."""
    beat, chorale = beat_of(score.tune.meter), score.genre == "Bach chorale"
    words, gentle = choice[0], choice[3]
    wish = rng.choice(["slow", "moderate", "fast", "slow" if gentle or chorale else "fast"])
    density = sum(n.channel == 0 for n in score.tune.notes) / max(score.tune.end, 1)  # notes a quarter
    if not density:  # a score of text and rests
        return None
    rate = {"slow": rng.uniform(1.1, 2.1), "moderate": rng.uniform(2.5, 4.0), "fast": rng.uniform(4.8, 6.6)}[wish]
    if chorale:
        rate = {"slow": rng.uniform(0.95, 1.25), "moderate": rng.uniform(1.5, 1.8), "fast": rng.uniform(2.1, 2.5)}[wish]
    felt = round(60 * rate / density / beat)  # felt beats a minute
    if not 38 <= felt <= (130 if chorale else 168):
        return None
    speed = wish if chorale else pace(rate)
    tune = fit(score.tune, felt * beat, SECONDS)
    if tune.end / (felt * beat) * 60 < 18:
        return None
    kind, helper, drums = "none", ("", 0), False
    if chorale:
        programs, move = choice[1], choice[2] + rng.randint(-4, 4)
    else:
        programs, helpers = str(choice[1]), choice[4]
        kinds = {
            "": ["none", "none", "octave"],
            "major": ["none", "none", "chords", "chords", "arpeggio", "drone"],
            "minor": ["none", "none", "chords", "arpeggio", "drone"],
        }.get(score.mode, ["none", "drone"])
        kind = rng.choice(kinds)
        helper = rng.choice(helpers) if kind != "none" else helper
        drums = speed != "slow" and kind != "drone" and rng.random() < (0.2 if gentle else 0.6)
        pitches = sorted(n.pitch for n in tune.notes)
        shift = rng.randint(-4, 4)
        move = shift + 12 * round((choice[2] - shift - pitches[len(pitches) // 2]) / 12)
    name = "" if helper[0] == words else f"{helper[0]} "
    below = helper[0] + ("s" if helper[0] == "string" else "")
    with_ = {
        "none": "",
        "drone": f" with {article(name + 'drone')}",
        "chords": f" with {name}chords",
        "arpeggio": f" with {name}arpeggios",
        "octave": f" doubled an octave lower by {below}",
    }[kind]
    with_ += (" and a simple drum beat" if with_ else " with a simple drum beat") if drums else ""
    row = {
        "package": "music21",
        "path": score.work,
        "title": score.title,
        "licence": "public domain",
        "artist": "Johann Sebastian Bach" if chorale else "traditional",
        "split": split_of(score.contour),
        "kind": kind_of(words, score.genre),
        "captions": "",
        "style": "tune",
        "form": "",
        "programs": programs,
        "backing": kind if kind == "none" else f"{kind}:{helper[1]}",
        "drums": str(int(drums)),
        "bpm": str(round(felt * beat, 1)),
        "transpose": str(move),
        "tonic": str((score.tonic + move) % 12),
        "mode": "minor" if score.mode in ("minor", "dorian") else "major",
        "hall": str(rng.choice([0, 1, 1, 1, 2, 2])),
        "seconds": str(SECONDS),
    }
    solo = (kind == "none" or helper[0] == words) and not drums and (not chorale or len(set(programs.split())) == 1)
    solo = solo and not any(w in words for w in ("ensemble", "section", "strings", "consort", "waves", "pad"))
    feelings = mood(speed, score.mode, gentle)
    # The captions draw from chance of their own: rewording them leaves every setting, and so the audio, as it is.
    said = captions(score, words, with_, solo, speed, felt, row, feelings, random.Random(score.work))
    row["captions"] = " | ".join(dict.fromkeys(said))
    return row
