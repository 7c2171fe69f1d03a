"""Pieces drawn by rule, for which no score is needed: percussion, metal, tension, jazz over changes.

A caption says only what the line itself fixes. The pieces share nothing with each other but the rule; of each group of
forms the first goes to test, the fourth to validation.
"""

import random
from collections import Counter

from music.plan_tunes import NAMES, article
from music.styles import BEATS, GROOVES, PITCHED

SECONDS = 48
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
