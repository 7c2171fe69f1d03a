"""Tunes and chorales in other styles: a jazz band, a sound chip, an orchestra; more solo piano and folk.

A caption says only what the line itself fixes. Tunes are split by the key of plan_tunes.py, so that one melody in two
styles stays on one side.
"""

import random
from collections import Counter
from pathlib import Path

from music import plan_tunes
from music.plan_rule import BANDS, LEADS, jazz_words, row_of, said
from music.plan_tunes import NAMES, Score, article, pace, settle, split_of
from music.scores import beat_of

TUNED = {"jazz": 42, "chip": 64, "orchestra": 62, "piano": 72, "folk": 52}  # how many of each
PIANO = ("piano", 0, 70, True, [("piano", 0)])
FOLK = [
    ("fiddle", 110, 71, False, [("acoustic guitar", 24), ("accordion", 21)]),
    ("flute", 73, 77, True, [("acoustic guitar", 25), ("harp", 46)]),
    ("accordion", 21, 70, False, [("accordion", 21), ("acoustic guitar", 25)]),
    ("tin whistle", 78, 79, True, [("acoustic guitar", 25)]),
    ("acoustic guitar", 25, 62, True, [("acoustic guitar", 25)]),
    ("banjo", 105, 64, False, [("acoustic guitar", 25), ("banjo", 105)]),
    ("violin", 40, 73, True, [("acoustic guitar", 24), ("harp", 46)]),
    ("hammered dulcimer", 15, 70, True, [("acoustic guitar", 25)]),
]


def of_tune(score: Score, style: str, rng: random.Random, middle: int, bpm: float, form: str, **rest: object) -> dict:
    """The line of a tune moved so that the middle of its melody lies at `middle`, give or take a third."""
    pitches = sorted(n.pitch for n in score.tune.notes if n.channel == 0)
    shift = rng.randint(-4, 4)
    move = shift + 12 * round((middle - shift - pitches[len(pitches) // 2]) / 12)
    artist = "Johann Sebastian Bach" if score.genre == "Bach chorale" else "traditional"
    tonic, mode = (score.tonic + move) % 12, "minor" if score.mode in ("minor", "dorian") else "major"
    return row_of(
        score.work,
        score.title,
        artist,
        split_of(score.contour),
        style,
        form,
        bpm=round(bpm, 1),
        transpose=move,
        tonic=tonic,
        mode=mode,
        **rest,
    )


def density(score: Score) -> float:
    """Notes of the melody in a quarter note."""
    return sum(n.channel == 0 for n in score.tune.notes) / max(score.tune.end, 1)


def lasts(score: Score, bpm: float, least: float) -> bool:
    """Whether it plays long enough, twice through if it is short."""
    return score.tune.end * 60 / bpm * 2 >= least


def jazz_tune(score: Score, n: int, rng: random.Random) -> dict | None:
    """A tune for a jazz band."""
    bpm = rng.uniform(95, 190)
    if score.tune.meter not in ("4/4", "2/4", "2/2", "3/4") or score.mode not in ("major", "minor", "dorian"):
        return None
    if not 0.6 < density(score) * bpm / 60 < 4.2 or not lasts(score, bpm, 30) or score.genre == "Bach chorale":
        return None
    lead, program, middle = LEADS[n % len(LEADS)]
    band = list(BANDS)[n % 3 if n % 8 else 3]
    if lead in ("piano", "jazz guitar"):
        band = "quartet"
    beside, drums = BANDS[band]
    form = f"{lead} {band}"
    row = of_tune(score, "jazz", rng, middle, bpm, form, drums=drums, programs=f"{program} {beside}".strip())
    waltz = "a jazz waltz" if score.tune.meter == "3/4" else "a swinging version of a folk tune"
    row["captions"] = jazz_words(row, lead, band, waltz)
    return row


def chip(score: Score, n: int, rng: random.Random) -> dict | None:
    """A tune on the sound chip."""
    felt = rng.uniform(95, 170)
    bpm = felt * beat_of(score.tune.meter)
    rate = density(score) * bpm / 60
    if score.mode not in ("major", "minor", "dorian") or not 1.2 < rate < 7 or not lasts(score, bpm, 30):
        return None
    if score.genre == "Bach chorale":
        return None
    row = of_tune(score, "chip", rng, 76, bpm, ["0.125", "0.25", "0.5"][n % 3], drums=int(n % 4 != 3))
    tempo = pace(rate) if pace(rate) != "moderate" else ""
    mood = "cheerful" if row["mode"] == "major" else "dark"
    drums = " and noise drums" if row["drums"] == "1" else ""
    key, say = f"{NAMES[int(row['tonic'])]} {row['mode']}", random.Random(row["path"])
    row["captions"] = said(
        say.choice(
            [f"{tempo} 8-bit chiptune", f"{mood} chiptune", f"{tempo} chiptune", f"{tempo} retro game chiptune"]
        ),
        f"{mood} 8-bit chiptune with square waves, {round(felt)} bpm",
        f"{article(f'{tempo} chiptune'.strip()).capitalize()} in {key}: square wave melody, fast arpeggios, "
        f"triangle wave bass{drums}, like an old video game, around {round(felt)} bpm.",
        f"chiptune, 8-bit, video game, square wave, arpeggio, {tempo or 'mid-tempo'}, {row['mode']} key, electronic",
    )
    return row


def orchestra(score: Score, n: int, rng: random.Random) -> dict | None:
    """A tune or a chorale for full orchestra."""
    chorale = score.genre == "Bach chorale"
    if score.mode not in ("major", "minor", "dorian"):
        return None
    form = ["grand", "gentle"][n % 2] if chorale else ["marching", "gentle", "grand"][n % 3]
    felt = rng.uniform(100, 126) if form == "marching" else rng.uniform(56, 84) if chorale else rng.uniform(62, 96)
    bpm = felt * beat_of(score.tune.meter)
    rate = density(score) * bpm / 60
    if form == "marching" and score.tune.meter not in ("2/4", "4/4", "2/2", "6/8"):
        return None
    if not 0.7 < rate < (5 if form == "marching" else 3.2) or not lasts(score, bpm, 26):
        return None
    row = of_tune(score, "orchestra", rng, 70, bpm, form, hall=2 if form == "grand" else 1)
    minor = row["mode"] == "minor"
    colour = "oboe" if minor else "trumpet"
    mood = {
        "marching": "dark" if minor else "triumphant",
        "gentle": "sad" if minor else "peaceful",
        "grand": "solemn" if minor else "majestic",
    }[form]
    kind = {"marching": "orchestral march", "gentle": "orchestral piece", "grand": "orchestral piece"}[form]
    drums = {"marching": ", timpani and snare drum", "gentle": " and soft timpani", "grand": ", timpani and cymbals"}[
        form
    ]
    key, say = f"{NAMES[int(row['tonic'])]} {row['mode']}", random.Random(row["path"])
    pace_ = "march" if form == "marching" else "slow"
    row["captions"] = said(
        say.choice([f"{mood} orchestral music", f"{mood} {kind}", f"{mood} orchestra"]),
        f"{mood} orchestral music with strings, horns and timpani, {round(felt)} bpm",
        f"{article(mood).capitalize()} {kind} in {key} for full orchestra: strings, flute, "
        f"{colour}, horns, bassoon{drums}, around {round(felt)} beats per minute.",
        f"orchestral, classical, {mood}, strings, horns, timpani, {row['mode']} key, {pace_}",
    )
    return row


def arranged(score: Score, choice: tuple, rng: random.Random) -> dict | None:
    """A line as plan_tunes.py makes them, marked by a form as one of this file."""
    if score.genre == "Bach chorale":
        choice = (choice[0], " ".join([str(choice[1])] * 4), 0, choice[3])
    for _ in range(4):
        if (row := settle(score, choice, rng)) and not (choice[0] == "piano" and row["drums"] == "1"):
            return row | {"form": choice[0]}
    return None


def on_tunes(used: set[str], rng: random.Random) -> list[dict]:
    """Deal tunes and chorales out to the styles, to the one that is furthest behind first."""
    from music21 import corpus

    root = Path(corpus.__file__).parent
    chorales, tunes = plan_tunes.chorales(root, rng), plan_tunes.tunes(root, rng)
    rows: list[dict] = []
    done: Counter = Counter()
    seen: set[str] = set()
    turn = 0
    while any(done[s] < n for s, n in TUNED.items()):
        turn += 1
        score = next(chorales, None) if turn % 6 == 0 else next(tunes)
        if not score or score.work in used or score.contour in seen or len(score.tune.notes) < 12:
            continue
        for style in sorted(TUNED, key=lambda s: done[s] / TUNED[s]):
            n = done[style]
            if n >= TUNED[style] or (style == "folk" and score.genre == "Bach chorale"):
                continue
            choice = {"piano": PIANO, "folk": FOLK[n % len(FOLK)]}.get(style)
            make = {"jazz": jazz_tune, "chip": chip, "orchestra": orchestra}.get(style)
            row = make(score, n, rng) if make else arranged(score, choice, rng)
            if row:
                rows.append(row)
                done[style] += 1
                seen.add(score.contour)
                break
    return rows
