"""Pieces that data/scores.csv asks for by `style`: bands over a public-domain tune, or music drawn by rule with a seed.

Every style returns (notes, GM program of each channel, quarter notes a minute). Times are in quarter notes, as in
scores.py. A row's `form` picks the variety within a style ("swing quartet", "rock groove"); what a caption says of a
piece is what the form, the tempo and the key of its row fix here.
"""

import random
from collections.abc import Callable

from music.scores import DRUMS, Note, Tune, beat_of, chords_for, placed, spans, triad

Row = dict[str, str]
Piece = tuple[list[Note], dict[int, int]]
KICK, STICK, SNARE, CLAP, CLOSED, PEDAL, OPEN, CRASH, RIDE = 36, 37, 38, 39, 42, 44, 46, 49, 51
LOW_TOM, MID_TOM, HIGH_TOM = 43, 47, 50


def hit(start: float, drum: int, velocity: int) -> Note:
    """One stroke on the drum kit."""
    return Note(start, 0.2, drum, velocity, DRUMS)


def loosen(notes: list[Note], rng: random.Random, time: float, force: int) -> list[Note]:
    """Small random shifts of time (quarter notes) and velocity: nobody plays like a clock."""
    return [
        Note(
            max(0.0, n.start + rng.uniform(-time, time)),
            n.length,
            n.pitch,
            n.velocity + rng.randint(-force, force),
            n.channel,
        )
        for n in notes
    ]


def grid(text: str, start: float, length: float, drum: int, loud: int) -> list[Note]:
    """Strokes from a drawing: "x...X..." spread over `length` quarters; x is a stroke, X an accent, o a ghost note."""
    step = length / len(text)
    force = {"x": loud, "X": min(127, loud + 22), "o": loud - 34}
    return [hit(start + i * step, drum, force[c]) for i, c in enumerate(text) if c in force]


# --- jazz -----------------------------------------------------------------------------------------------------------

BLUES = [0, 5, 0, 0, 5, 5, 0, 9, 2, 7, 0, 7]  # roots of the twelve bars, semitones above the tonic
TURNS = [[2, 7, 0, 9], [0, 9, 2, 7], [4, 9, 2, 7], [5, 10, 0, 9]]  # four bars each


def seventh(root: int, minor: bool, blues: bool) -> list[int]:
    """Root, third, fifth, seventh, in semitones above the tonic."""
    if blues:
        return [root, root + 4, root + 7, root + 10]
    third = (triad(root, minor)[1] - root) % 12
    sharp = third == 4 and root % 12 != 7 and not (minor and root % 12 == 10)
    return [root, root + third, root + 7, root + (11 if sharp else 10)]


def swung(t: float) -> float:
    """Where a straight time falls when eighth notes are played long, short."""
    beat, part = divmod(t, 1.0)
    return beat + (part * 4 / 3 if part <= 0.5 else 2 / 3 + (part - 0.5) * 2 / 3)


def walk(bars: list[tuple[float, float]], chords: list[list[int]], tonic: int, rng: random.Random) -> list[Note]:
    """A walking bass: root, chord tones, and a step into the next root, one note a quarter."""
    notes, at = [], 36
    for i, ((a, b), chord) in enumerate(zip(bars, chords, strict=True)):
        after = chords[min(i + 1, len(chords) - 1)][0]
        count = max(1, round(b - a))
        for k in range(count):
            wish = tonic + (chord[0] if k == 0 else rng.choice(chord))
            if k == count - 1 and count > 1:
                wish = tonic + after + rng.choice([-1, 1])
            near = wish % 12 + 24
            at = min((p for p in (near, near + 12, near + 24) if 28 <= p <= 50), key=lambda p: abs(p - at))
            notes.append(Note(a + k, 0.9, at, 92 if k % 2 == 0 else 84, 1))
    return notes


def comping(
    bars: list[tuple[float, float]], chords: list[list[int]], tonic: int, channel: int, rng: random.Random
) -> list[Note]:
    """Short seventh chords without their root, off the beat."""
    notes = []
    for (a, b), chord in zip(bars, chords, strict=True):
        for t in rng.choice([(0, 1.5), (0.5, 2.5), (1.5, 3), (0, 2.5), (1.5,), (0.5,)]):
            if a + t < b:
                tones = [54 + (tonic + c - 54) % 12 for c in (*chord[1:], chord[0] + 14)]
                notes += [Note(swung(a + t), rng.choice([0.3, 0.9]), p, 58, channel) for p in tones]
    return notes


def ride(bars: list[tuple[float, float]], rng: random.Random) -> list[Note]:
    """The swing of a ride cymbal, hi-hat by foot on the even beats, a few soft strokes of the snare."""
    notes = []
    for a, b in bars:
        count = max(1, round(b - a))
        for k in range(count):
            notes.append(hit(a + k, RIDE, 78 if k % 2 else 68))
            if k % 2:
                notes += [hit(a + k + 2 / 3, RIDE, 58), hit(a + k, PEDAL, 66)]
            if rng.random() < 0.22:
                notes.append(hit(a + k + 2 / 3, SNARE, rng.randint(34, 58)))
            if rng.random() < 0.15:
                notes.append(hit(a + k, KICK, 52))
    return notes


def improvise(
    bars: list[tuple[float, float]], chords: list[list[int]], tonic: int, middle: int, rng: random.Random
) -> list[Note]:
    """A line of swung eighths and rests, stepping between the tones of each chord and the notes beside them."""
    notes, at = [], middle
    for i, ((a, b), chord) in enumerate(zip(bars, chords, strict=True)):
        if i % 4 == 3 and rng.random() < 0.6:
            continue  # breathe
        steps = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
        for t in steps:
            if a + t >= b or rng.random() < (0.42 if t % 1 == 0 else 0.3):
                continue
            tones = {(tonic + c) % 12 for c in chord} | ({(tonic + chord[0] + 2) % 12} if t % 1 else set())
            near = [p for p in range(at - 5, at + 6) if p % 12 in tones and abs(p - middle) < 11 and p != at]
            at = rng.choice(near or [at])
            length = rng.choice([0.45, 0.45, 0.9])
            notes.append(Note(swung(a + t), length, at, rng.randint(82, 104), 0))
    return notes


def jazz(row: Row, tune: Tune | None, rng: random.Random) -> Piece:
    """A small band that swings: the tune, or a line improvised by rule over a blues or turnarounds."""
    tonic, minor = int(row["tonic"]), row["mode"] == "minor"
    programs = [int(p) for p in row["programs"].split()]  # lead and, where there is one, the instrument that comps
    if tune:
        bars, melody = (
            spans(tune),
            [Note(swung(n.start), n.length * 0.92, n.pitch, n.velocity, 0) for n in tune.notes if n.channel == 0],
        )
        chords = [seventh(r, minor, False) for r in chords_for(tune, tonic, minor)]
    else:
        blues = row["form"].startswith("blues")
        roots = BLUES if blues else [r for t in rng.choices(TURNS, k=4) for r in t]
        count = int(float(row["seconds"]) * float(row["bpm"]) / 240)
        chords = [seventh(roots[i % len(roots)], False, blues) for i in range(count)]
        bars = [(4.0 * i, 4.0 * i + 4) for i in range(count)]
        melody = improvise(bars, chords, tonic, int(row["transpose"]), rng)
    notes = melody + walk(bars, chords, tonic, rng)
    if len(programs) > 1:
        notes += comping(bars, chords, tonic, 2, rng)
    if row["drums"] == "1":
        notes += ride(bars, rng)
    return loosen(notes, rng, 0.018, 7), {0: programs[0], 1: 32, 2: programs[-1]}


# --- metal ----------------------------------------------------------------------------------------------------------

BEATS = {  # bass drum, snare, cymbal (drum and drawing), a bar of four quarters each
    "thrash": ("x.x.x.x.x.x.x.x.", "..X...X...X...X.", (CLOSED, "x.x.x.x.x.x.x.x.")),
    "double bass": ("xxxxxxxxxxxxxxxx", "....X.......X...", (RIDE, "x...x...x...x...")),
    "heavy": ("x..x..x.x..x..x.", "....X.......X...", (OPEN, "x...x...x...x...")),
    "slow doom": ("x.....x.x.......", "........X.......", (CRASH, "x.......x.......")),
    "gallop": ("x.xxx.xxx.xxx.xx", "....X.......X...", (CLOSED, "x...x...x...x...")),
}


def riff(form: str, rng: random.Random) -> list[tuple[float, float, int]]:
    """(start, length, semitones above the lowest root) of a bar of guitar: chugs on the root, moves between them."""
    moves = [0, 0, 0, 3, 5, 6, 7, 8, 1, 10]
    if form == "slow doom":
        return [(0, 1.9, 0), (2, 0.9, rng.choice(moves)), (3, 0.9, rng.choice(moves))]
    if form == "gallop":
        cell = [(0, 0.45), (0.5, 0.22), (0.75, 0.22)]
    elif form == "heavy":
        cell = [(0, 0.7), (0.75, 0.22)]
    else:
        cell = [(0, 0.22), (0.25, 0.22), (0.5, 0.22), (0.75, 0.22)] if rng.random() < 0.6 else [(0, 0.4), (0.5, 0.4)]
    return [(beat + t, d, 0 if t or rng.random() < 0.5 else rng.choice(moves)) for beat in range(4) for t, d in cell]


def metal(row: Row, _: Tune | None, rng: random.Random) -> Piece:
    """Two distorted guitars in fifths, bass below, loud drums; a lead guitar in every other part where form says so."""
    root, form = int(row["transpose"]), row["form"].removesuffix(" with lead guitar")
    lead, beat = row["form"].endswith("lead guitar"), BEATS[form]
    count = int(float(row["seconds"]) * float(row["bpm"]) / 240)
    riffs = [riff(form, rng) for _ in range(4)]
    scale = [0, 2, 3, 5, 7, 8, 11]
    notes, at = [], 14
    for bar in range(count):
        a, part = 4.0 * bar, bar // 4
        chorus = part % 4 == 3
        shape = (
            [(0, 1.9, rng.choice([8, 5, 3])), (2, 1.9, rng.choice([10, 7, 0]))]
            if chorus
            else riffs[(part % 2) * 2 + bar % 2]
        )
        for t, d, up in shape:
            for channel in (0, 2):
                notes += [Note(a + t, d, root + up + k, 104, channel) for k in (0, 7, 12)]
            notes.append(Note(a + t, d, root + up - 12, 104, 1))
        kick, snare, (cymbal, drawn) = beat
        notes += grid(kick, a, 4, KICK, 104) + grid(snare, a, 4, SNARE, 104) + grid(drawn, a, 4, cymbal, 88)
        if bar % 4 == 0:
            notes.append(hit(a, CRASH, 116))
        if lead and part % 2:
            step = 0.25 if rng.random() < 0.4 else 0.5
            for k in range(round(4 / step)):
                if rng.random() < 0.85:
                    at = max(7, min(24, at + rng.choice([-2, -1, -1, 1, 1, 2])))
                    notes.append(Note(a + k * step, step * 0.95, root + 12 + 12 * (at // 7) + scale[at % 7], 108, 3))
    return loosen(notes, rng, 0.008, 5), {0: 30, 1: 34, 2: 29, 3: 30}


# --- tension --------------------------------------------------------------------------------------------------------


def tension(row: Row, _: Tune | None, rng: random.Random) -> Piece:
    """Film-like suspense: tremolo strings over a low drone, dissonances, timpani; an ostinato where form says so."""
    tonic, form = 36 + int(row["tonic"]), row["form"]
    count = int(float(row["seconds"]) * float(row["bpm"]) / 240)
    chords = [[0, 3, 7], [0, 3, 6], [1, 5, 8], [0, 3, 8], [-1, 3, 6], [0, 1, 7], [0, 6, 11]]
    cell = [rng.choice([0, 0, 1, 3, 7, 12, 6]) for _ in range(8)]
    notes: list[Note] = []
    chord = chords[0]
    for bar in range(count):
        a, grow = 4.0 * bar, 50 + round(46 * (bar % 8) / 7)  # swells over eight bars
        if bar % 2 == 0:
            chord = chords[0] if bar == 0 else rng.choice(chords)
            notes += [Note(a, 7.95, tonic + 24 + c, grow, 0) for c in chord]
            notes += [Note(a, 7.95, tonic + d, min(100, grow + 6), 1) for d in ((0, -12) if tonic > 38 else (0, 12))]
            if rng.random() < 0.5 and form != "low brass":
                notes.append(Note(a, 7.95, tonic + 48 + chord[-1] + rng.choice([0, 1]), grow - 10, 2))
        if form in ("ostinato", "chase"):
            step = 0.5 if form == "ostinato" else 0.25
            notes += [
                Note(a + k * step, step * 0.8, tonic + 12 + cell[k % 8], 88 + 14 * (k % 4 == 0), 3)
                for k in range(round(4 / step))
            ]
        if form == "low brass" and bar % 2 == 1:
            notes += [Note(a, 3.5, tonic + c, 108, 4) for c in (0, 1 if rng.random() < 0.4 else 7)]
        if form == "heartbeat":
            notes += [Note(a + t, 0.4, tonic, v, 5) for t, v in ((0, 104), (0.5, 80), (2, 100), (2.5, 76))]
        elif bar % 4 == 3:
            notes += [Note(a + k / 8, 0.12, tonic, 40 + 2 * k, 5) for k in range(32)]
        elif rng.random() < 0.6:
            notes.append(Note(a, 0.8, tonic, 106, 5))
        if form == "chase":
            notes += grid("x..x..x.x..x..x.", a, 4, LOW_TOM, 96) + grid("x...............", a, 4, KICK, 110)
        if bar % 8 == 0 and bar:
            notes += [hit(a, CRASH, 92), hit(a, KICK, 112)]
    return loosen(notes, rng, 0.01, 5), {0: 44, 1: 58 if form == "low brass" else 43, 2: 49, 3: 48, 4: 57, 5: 47}


# --- percussion -----------------------------------------------------------------------------------------------------

GROOVES = {  # a bar as drawings: drum -> strokes
    "rock": {KICK: "x.......x.x.....", SNARE: "....X.......X...", CLOSED: "x.x.x.x.x.x.x.x."},
    "funk": {KICK: "x..x..x...x..x..", SNARE: "..o.X..o.o..X..o", CLOSED: "xxxxxxxxxxxxxxxx"},
    "half-time": {KICK: "x.....x...x.....", SNARE: "........X.......", CLOSED: "x.x.x.x.x.x.x.x."},
    "breakbeat": {KICK: "x.x.......xx....", SNARE: "....X..o.o..X..o", RIDE: "x.x.x.x.x.x.x.x."},
    "four-on-the-floor": {KICK: "x...x...x...x...", CLAP: "....x.......x...", OPEN: "..x...x...x...x."},
    "swing": {KICK: "x.....x.....", SNARE: "..o.....o..o", RIDE: "x..x.xx..x.x", PEDAL: "...x.....x.."},
    "marching": {KICK: "x...x...x...x...", SNARE: "X.xxX.xxX.xxXxxx"},
    "tom-tom": {
        KICK: "x.......x.......",
        LOW_TOM: "x..x..x...x.x...",
        MID_TOM: "..x..x..x......x",
        HIGH_TOM: "...........x.x..",
    },
    "shuffle": {KICK: "x.....x.....", SNARE: "...X.....X..", CLOSED: "x.xx.xx.xx.x"},
    "latin": {KICK: "x..xx..xx..xx..x", STICK: "x..x...x..x...x.", 70: "x.x.x.x.x.x.x.x.", 56: "x...x.x...x.x..."},
    "conga and bongo": {63: "x..o..X.x..o..X.", 64: "..x.x....x..x..x", 60: "x.x.....x.x..x..", 61: "....x.....x....x"},
    "samba": {KICK: "x..xx..xx..xx..x", 70: "xxXxxxXxxxXxxxXx", 67: "x.x..x.x.xx.x...", 68: "....x.......x..."},
    "shaker and tambourine": {
        82: "x.X.x.X.x.X.x.X.",
        54: "....X.......X...",
        75: "x..x..x...x.x...",
        KICK: "x.......x.......",
    },
}
PITCHED = {
    "taiko": (116, 42),
    "timpani": (47, 43),
    "melodic tom": (117, 45),
    "steel drum": (114, 67),
    "woodblock": (115, 66),
}


def fill(start: float, rng: random.Random) -> list[Note]:
    """One beat over snare and toms."""
    drums = sorted(rng.choices([SNARE, HIGH_TOM, MID_TOM, LOW_TOM], k=4), reverse=True)
    return [hit(start + k / 4, d, 92 + 5 * k) for k, d in enumerate(drums)]


def percussion(row: Row, _: Tune | None, rng: random.Random) -> Piece:
    """Drums alone: a groove of the kit with variations and fills, or drums with a pitch beating a pattern by rule."""
    form, count = row["form"], int(float(row["seconds"]) * float(row["bpm"]) / 240)
    notes: list[Note] = []
    if form in GROOVES:
        plain = form not in ("conga and bongo", "shaker and tambourine", "latin", "samba", "swing", "marching")
        for bar in range(count):
            a = 4.0 * bar
            for drum, drawn in GROOVES[form].items():
                for n in grid(drawn, a, 4, drum, 92):
                    if n.velocity > 110 or rng.random() > 0.06:
                        notes.append(n)
                if rng.random() < 0.15:
                    notes.append(hit(a + rng.randrange(16) / 4, drum, 66))
            if bar % 4 == 3 and plain:
                notes = [n for n in notes if n.start < a + 3] + fill(a + 3, rng)
            if bar % 8 == 0 and plain:
                notes.append(hit(a, CRASH, 104))
        return loosen(notes, rng, 0.012, 8), {}
    program, low = PITCHED[form]
    tones = [0, 3, 7] if form == "melodic tom" else [0, 2, 4, 7, 9, 12] if form == "steel drum" else [0, 0, 5]
    cells = [[rng.random() < p for p in [1, 0.3, 0.5, 0.35] * 4] for _ in range(3)]
    for bar in range(count):
        a, cell = 4.0 * bar, cells[(bar // 2) % 3 if bar % 4 != 3 else 2]
        for k in range(16):
            if cell[k] or (bar % 8 == 7 and k >= 8):
                notes.append(Note(a + k / 4, 0.3, low + rng.choice(tones), 116 if k % 4 == 0 else 88, 0))
        if form == "taiko":
            notes += [Note(a + t, 1.0, low - 7, 120, 1) for t in (0, 2.5)] + grid("x.......x..x....", a, 4, KICK, 96)
            notes += grid("..x...x...x...x.", a, 4, STICK, 70) if bar % 4 else [hit(a, CRASH, 76)]
    return loosen(notes, rng, 0.014, 9), {0: program, 1: program}


# --- orchestra ------------------------------------------------------------------------------------------------------


def orchestra(row: Row, tune: Tune | None, rng: random.Random) -> Piece:
    """A full orchestra: tune or chorale in strings and woodwinds, horns on the chords, low strings, timpani."""
    assert tune
    tonic, minor = int(row["tonic"]), row["mode"] == "minor"
    bars, beat = spans(tune), beat_of(tune.meter)
    parts = max(n.channel for n in tune.notes) + 1
    notes = []
    for n in tune.notes:
        if n.channel == 0:
            notes += [Note(n.start, n.length, n.pitch + k, n.velocity, c) for k, c in ((0, 0), (12, 3), (0, 4))]
        elif n.channel == parts - 1:
            notes += [Note(n.start, n.length, n.pitch + k, n.velocity, c) for k, c in ((0, 1), (-12, 2), (0, 6))]
        else:
            notes += [Note(n.start, n.length, n.pitch, n.velocity - 4, c) for c in (1, 5)]
    if parts == 1:
        for (a, b), root in zip(bars, chords_for(tune, tonic, minor), strict=True):
            tones = sorted(52 + (tonic + t - 52) % 12 for t in triad(root, minor))
            bass = 36 + (tonic + root) % 12
            notes += [Note(a, b - a, bass + k, 84, c) for k, c in ((0, 2), (12, 6))]
            if row["form"] == "marching":
                notes += [Note(t, 0.4 * beat, p, 84, 1) for t in steps(a, b, beat / 2) for p in tones]
            else:
                notes += [Note(a, b - a, p, 76, 1) for p in tones]
            notes += [Note(a, b - a, p, 78, 5) for p in tones]
    for i, (a, b) in enumerate(bars):
        loud = row["form"] in ("marching", "grand")
        if loud or i % 4 == 0:
            notes.append(Note(a, 0.6, 36 + (tonic + (7 if i % 4 == 2 else 0)) % 12, 92 if loud else 66, 7))
        if row["form"] == "marching":
            notes += grid("X.xx", a, beat, SNARE, 74) + [hit(t, SNARE, 78) for t in steps(a + beat, b, beat)]
        if loud and i % 8 == 0:
            notes.append(hit(a, CRASH, 84))
    notes.append(Note(tune.end - 0.01, 2, 36 + tonic, 96, 7))
    return loosen(notes, rng, 0.012, 5), {0: 48, 1: 48, 2: 43, 3: 73, 4: 68 if minor else 56, 5: 60, 6: 70, 7: 47}


def steps(start: float, end: float, step: float) -> list[float]:
    """Times from start to just before end."""
    return [start + k * step for k in range(max(1, round((end - start) / step)))]


STYLES: dict[str, Callable[[Row, Tune | None, random.Random], Piece]] = {
    "jazz": jazz,
    "metal": metal,
    "tension": tension,
    "percussion": percussion,
    "orchestra": orchestra,
}


def play(row: Row) -> Piece:
    """Notes and programs of a line of scores.csv whose `style` is one of STYLES."""
    tune = None if row["path"].startswith("rule/") else placed(row)
    return STYLES[row["style"]](row, tune, random.Random(f"{row['path']} {row['form']}"))
