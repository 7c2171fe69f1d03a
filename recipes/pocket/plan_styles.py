"""Add the pieces of styles.py and chip.py, more solo piano and folk, to the list: `python plan_styles.py scores.csv`.

Done once, by the maintainers, after plan_scores.py: it keeps the lines without `form` and draws all others anew, the
same ones for the same seed. A caption says only what the line itself fixes. Tunes are split by the key of
plan_scores.py, so that one melody in two styles stays on one side; pieces drawn by rule share nothing, and of each
group of forms the first goes to test, the fourth to validation, as they have no old lines to agree with.
"""

import csv
import random
import sys
from collections import Counter
from pathlib import Path

import plan_scores
from plan_scores import NAMES, Score, article, pace, settle, split_of
from scores import beat_of
from styles import BEATS, GROOVES, PITCHED

SECONDS = 48
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
KINDS = {"chip": "chiptune", "orchestra": "orchestral"}  # where the kind is not called like the style
LEADS = [  # of jazz: words, GM program, middle of its range
    ("tenor saxophone", 66, 58),
    ("piano", 0, 70),
    ("trumpet", 56, 67),
    ("vibraphone", 11, 70),
    ("alto saxophone", 65, 65),
    ("clarinet", 71, 68),
    ("piano", 0, 70),
    ("muted trumpet", 59, 67),
    ("jazz guitar", 26, 63),
    ("trombone", 57, 55),
]
BANDS = {  # words after the lead: programs beside it, drums
    "quartet": ("0", "1"),
    "quartet with jazz guitar": ("26", "1"),
    "trio without piano": ("", "1"),
    "and double bass duo": ("", "0"),
}


def row_of(path: str, title: str, artist: str, split: str, style: str, form: str, **rest: object) -> dict[str, str]:
    """A line of scores.csv."""
    package = "rule" if path.startswith("rule/") else "music21"
    plain = {
        "package": package,
        "path": path,
        "title": title,
        "licence": "public domain",
        "artist": artist,
        "split": split,
        "kind": KINDS.get(style, style),
        "captions": "",
        "style": style,
        "form": form,
        "programs": "",
        "backing": "none",
        "drums": "0",
        "bpm": "120",
        "transpose": "0",
        "tonic": "0",
        "mode": "minor",
        "hall": "1",
        "seconds": str(SECONDS),
    }
    return plain | {k: str(v) for k, v in rest.items()}


def said(*phrases: str) -> str:
    """The captions of a line, each once."""
    return " | ".join(dict.fromkeys(" ".join(p.split()).replace(" ,", ",") for p in phrases))


def speed_of(bpm: float, slow: float, fast: float) -> str:
    """slow, fast or nothing."""
    return "slow" if bpm < slow else "fast" if bpm > fast else ""


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


def jazz_words(row: dict, lead: str, band: str, kind: str) -> str:
    """Captions of a small band: who plays is what the line says."""
    bpm = float(row["bpm"])
    fast, alone = speed_of(bpm, 105, 165), lead == "piano"
    group = {"quartet": "jazz quartet", "quartet with jazz guitar": "jazz quartet", "trio without piano": "jazz trio"}
    short = "piano jazz trio" if alone else group.get(band, "jazz duo")
    others = {
        "quartet": "piano, walking double bass and swing drums",
        "quartet with jazz guitar": "jazz guitar, walking double bass and swing drums",
        "trio without piano": "walking double bass and swing drums",
        "and double bass duo": "a walking double bass",
    }[band]
    if alone:
        others = "walking double bass and swing drums"
    mood = {"slow": "relaxed", "fast": "lively", "": ""}[fast]
    return said(
        f"{fast} {short}" if len(row["path"]) % 2 else f"{mood} swing jazz with {lead}",
        f"{lead} jazz with {others}, {round(bpm)} bpm",
        f"{article(f'{fast} {short}'.strip()).capitalize()} plays {kind}: {lead} over {others}, "
        f"around {round(bpm)} beats per minute.",
        f"jazz, swing, {lead}, double bass, {'ride cymbal, ' * int(row['drums'])}{fast or 'mid-tempo'}, acoustic",
    )


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


def jazz_rule(n: int, rng: random.Random) -> dict:
    """An improvisation drawn by rule."""
    lead, program, middle = LEADS[n % len(LEADS)]
    band = "quartet" if lead in ("piano", "jazz guitar") else list(BANDS)[n % 3 if n % 8 else 3]
    beside, drums = BANDS[band]
    blues = n % 2 == 0
    row = row_of(
        f"rule/jazz/{n}",
        f"Jazz {n}",
        "drawn by rule",
        "train",
        "jazz",
        f"{'blues' if blues else 'changes'} {lead}",
        programs=f"{program} {beside}".strip(),
        drums=drums,
        bpm=rng.randint(90, 200),
        transpose=middle,
        tonic=rng.randrange(12),
        mode="major",
    )
    row["captions"] = jazz_words(row, lead, band, "a twelve-bar blues" if blues else "an improvisation")
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
    """A line as plan_scores.py makes them, marked by a form as one of this file."""
    if score.genre == "Bach chorale":
        choice = (choice[0], " ".join([str(choice[1])] * 4), 0, choice[3])
    for _ in range(4):
        if (row := settle(score, choice, rng)) and not (choice[0] == "piano" and row["drums"] == "1"):
            return row | {"form": choice[0]}
    return None


def percussion(form: str, n: int, rng: random.Random) -> dict:
    """Drums alone."""
    bpm = rng.randint(76, 150)
    if form == "half-time":
        bpm = rng.randint(120, 160)
    row = row_of(f"rule/percussion/{n}", f"Drums {n}", "drawn by rule", "train", "percussion", form, bpm=bpm)
    row |= {"hall": str(2 if form in ("taiko", "timpani") else rng.choice([0, 1])), "mode": "major"}
    fast = speed_of(bpm, 88, 128)
    words = {
        "taiko": "taiko drums",
        "timpani": "timpani",
        "melodic tom": "toms",
        "steel drum": "steel drum",
        "woodblock": "woodblocks",
        "conga and bongo": "congas and bongos",
        "shaker and tambourine": "shaker, tambourine and claves",
        "samba": "samba percussion",
        "latin": "latin percussion",
        "marching": "marching snare drum and bass drum",
    }.get(form, f"{form} drum beat")
    kit = form in GROOVES and form not in ("conga and bongo", "shaker and tambourine", "samba", "latin", "marching")
    who = "solo drum kit" if kit else f"solo {words}"
    what = f"{article(f'{fast} {words}'.strip())} on a drum kit" if kit else f"{fast} {words}"
    say = random.Random(row["path"])
    row["captions"] = said(
        say.choice(
            [f"{fast} percussion", f"{fast} drums only", who, f"{fast} drum solo" if kit else f"{fast} {words}"]
        ),
        f"{fast} {words}, percussion only, {bpm} bpm",
        f"Solo percussion: {what}, no other instruments, around {bpm} beats per minute.",
        f"percussion, drums, {words}, rhythm, {fast or 'mid-tempo'}, no melody"
        if form not in PITCHED
        else f"percussion, {words}, rhythm, {fast or 'mid-tempo'}",
    )
    return row


def metal(form: str, n: int, rng: random.Random) -> dict:
    """A metal band."""
    slow = form.startswith("slow doom")
    bpm = rng.randint(58, 80) if slow else rng.randint(100, 140) if form.startswith("heavy") else rng.randint(140, 190)
    root = rng.choice([36, 38, 40, 41])
    row = row_of(
        f"rule/metal/{n}",
        f"Metal {n}",
        "drawn by rule",
        "train",
        "metal",
        form,
        bpm=bpm,
        transpose=root,
        tonic=root % 12,
    )
    row["hall"] = str(rng.choice([0, 1]))
    fast = "slow" if slow else "fast" if bpm >= 140 else ""
    name = form.removesuffix(" with lead guitar")
    kind = {"slow doom": "doom metal", "thrash": "thrash metal", "heavy": "heavy metal"}.get(name, "metal")
    drums = {"double bass": "double bass drums", "gallop": "galloping drums"}.get(name, f"{fast or 'heavy'} drums")
    lead = " and a lead guitar" if form.endswith("lead guitar") else ""
    key, say = f"{NAMES[root % 12]} minor", random.Random(row["path"])
    more = kind if kind != "metal" else "electric guitar riffs"
    row["captions"] = said(
        say.choice(
            [f"{fast} {kind}", f"{kind} guitar riffs", f"aggressive {kind}" if not slow else "heavy slow metal"]
        ),
        f"{fast} {kind} with distorted guitars and {drums}, {bpm} bpm",
        f"{article(f'{fast} {kind}'.strip()).capitalize()} piece in {key}: distorted electric guitar riffs, "
        f"bass guitar, {drums}{lead}, around {bpm} beats per minute.",
        f"metal, {more}, distorted electric guitar, drums, loud, {fast or 'mid-tempo'}, "
        + ("heavy" if slow else "aggressive"),
    )
    return row


def tension(form: str, n: int, rng: random.Random) -> dict:
    """Suspense."""
    bpm = {"chase": rng.randint(126, 150), "ostinato": rng.randint(96, 124)}.get(form, rng.randint(52, 76))
    row = row_of(
        f"rule/tension/{n}", f"Tension {n}", "drawn by rule", "train", "tension", form, bpm=bpm, tonic=rng.randrange(12)
    )
    row["hall"] = str(rng.choice([1, 2]))
    extra = {
        "chase": "a fast string ostinato with pounding drums",
        "ostinato": "a pulsing low string ostinato",
        "low brass": "low brass drones",
        "heartbeat": "a slow heartbeat of drums",
        "drone": "a low drone of double basses",
    }[form]
    fast = {"chase": "fast", "ostinato": ""}.get(form, "slow")
    word = rng.choice(["suspense", "film score", "cinematic"])
    say = random.Random(row["path"])
    row["captions"] = said(
        say.choice(
            [
                "tense film music",
                "dark suspense",
                "film-like tension",
                "tense cinematic strings",
                "suspenseful film score",
            ]
        ),
        f"{fast} tense cinematic music with tremolo strings and {extra}",
        f"A tense, dark film score: tremolo strings, {extra}, timpani and dissonant chords, building suspense.",
        f"film-like tension, {word}, dark, tremolo strings, timpani, {fast or 'mid-tempo'}, orchestral",
    )
    return row


def by_rule(rng: random.Random) -> list[dict]:
    """All pieces that no score is needed for, in turn over the forms; the split goes by groups of forms."""
    forms = [*GROOVES, *PITCHED]
    rows = [percussion(f, n, rng) for n, f in enumerate(forms * 4)]
    beats = [f + lead for f in BEATS for lead in ("", " with lead guitar")]
    rows += [metal(f, n, rng) for n, f in enumerate(beats * 6)]
    rows += [tension(f, n, rng) for n, f in enumerate(["ostinato", "low brass", "heartbeat", "chase", "drone"] * 12)]
    rows += [jazz_rule(n, rng) for n in range(36)]
    seen: Counter = Counter()
    for row in rows:
        group = row["style"], row["form"] if row["style"] == "tension" else row["form"].split(" ")[0]
        if row["style"] == "percussion":
            group = "percussion", str(forms.index(row["form"]) // 4)
        seen[group] += 1
        row["split"] = {1: "test", 4: "validation"}.get(seen[group], "train")
    return rows


def on_tunes(used: set[str], rng: random.Random) -> list[dict]:
    """Deal tunes and chorales out to the styles, to the one that is furthest behind first."""
    from music21 import corpus

    root = Path(corpus.__file__).parent
    chorales, tunes = plan_scores.chorales(root, rng), plan_scores.tunes(root, rng)
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


def main(listed: Path) -> None:
    """Rewrite the list: its old lines, then the new ones."""
    with listed.open(encoding="utf-8", newline="") as f:
        old = [r for r in csv.DictReader(f) if not r["form"]]
    rows = old + by_rule(random.Random(21)) + on_tunes({r["path"] for r in old}, random.Random(22))
    with listed.open("w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
