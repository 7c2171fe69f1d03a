"""Write the captions of tracks.csv: `python lists/3_captions.py OUT`, where OUT is the corpus that 1_corpus.py made.

Evidence, strongest first: what a package says of itself in a title or an embedded genre; two taggers that were trained
apart (listened.csv: musicnn over the whole track, EfficientAT mn04 over three pieces); measurements of the same three
pieces (measure.py). A kind needs evidence of more than one sort. As three captions of 10 s are merged into one for a
clip in the paper (Section IV-A), each statement is made for three pieces, and the caption keeps what holds in at least
two of them; a change of loudness between them is said as such. Of each track four phrasings are written, from two or
three words to a sentence, with the track's path as the seed.
"""

import csv
import json
import random
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(RECIPE))

from music import measure, packages, render  # noqa: E402

DATA = RECIPE / "data"
PACKAGES = {  # what the game is, said in one phrasing
    "ufoai-music": "science fiction game",
    "singularity-music": "science fiction game",
    "colobot-common-sounds": "science fiction game",
    "starfighter-data": "space shooter game",
    "noiz2sa-data": "arcade shooter game",
    "wesnoth-1.16-music": "fantasy game",
    "adonthell-data": "fantasy game",
    "flare-game": "fantasy game",
    "ardentryst": "fantasy game",
    "hyperrogue-music": "fantasy game",
    "lordsawar-data": "fantasy game",
    "widelands-data": "historical strategy game",
    "freecol": "historical strategy game",
    "nexuiz-music": "action game",
    "openarena-088-data": "action game",
    "supertux-data": "platform game",
    "seahorse-adventures": "platform game",
    "pekka-kana-2-data": "platform game",
    "plee-the-bear-data": "platform game",
    "pushover-data": "puzzle game",
    "wizznic-data": "puzzle game",
    "enigma-data": "puzzle game",
}
TITLES = {  # words of a title that say what is heard, and the kind they are evidence for
    r"\bmetal\b": "metal",
    r"chip(tune|disko)|8.?bit": "chiptune",
    r"\bjazz|\bblues\b|\brag\b|boogie|swing": "jazz",
    r"suspense|tension|\bdark\b|danger|\bdoom|dungeon|hell|halloween|ghost|shadows|fear": "tension",
    r"\bpiano\b": "solo piano",
    r"orchestra|symphony|\bmarch\b": "orchestral",
    r"ambien|meditation|contemplation|nebula": "ambient",
}


class Heard:
    """What is known of one track: tags of two listeners, and three pieces measured."""

    def __init__(self, row: dict[str, str], tags: dict[str, str], pieces: list[dict[str, float]]):
        self.row, self.pieces = row, pieces
        self.genre = tags["genre"].lower()
        self.musicnn = {k: int(v) / 100 for k, v in (t.rsplit(":", 1) for t in tags["musicnn"].split(";") if t)}
        self.audioset = {k: int(v) / 100 for k, v in (t.rsplit(":", 1) for t in tags["audioset"].split(";") if t)}
        self.module = row["path"].lower().endswith(render.MODULES)

    def m(self, *names: str) -> float:
        """The sum of musicnn's probabilities."""
        return sum(self.musicnn.get(n, 0.0) for n in names)

    def a(self, *names: str) -> float:
        """The sum of EfficientAT's probabilities."""
        return sum(self.audioset.get(n, 0.0) for n in names)

    def most(self, test: Callable[[dict[str, float]], bool]) -> bool:
        """Whether it holds in two of the three pieces."""
        return sum(map(test, self.pieces)) >= 2

    def middle(self, name: str) -> float:
        """The median of a measurement."""
        return sorted(p[name] for p in self.pieces)[1]


def kinds(h: Heard) -> dict[str, float]:
    """Evidence for each kind; about 1 where both listeners are sure."""
    a, m = h.a, h.m
    beat = a("Drum machine", "Drum kit", "Drum", "Bass drum", "Snare drum", "Drum and bass", "Dubstep", "Percussion")
    electronic = a("Techno", "Electronic music", "House music", "Trance music", "Electronic dance music", "Electronica")
    score = {
        "metal": 2.2 * a("Heavy metal") + 1.2 * m("metal") + 0.5 * a("Angry music", "Grunge", "Punk rock"),
        "rock": 1.2 * a("Rock music", "Electric guitar", "Progressive rock", "Rock and roll") + 0.9 * m("rock"),
        "orchestral": 1.5 * a("Orchestra", "String section", "French horn", "Opera")
        + 0.7
        * a("Classical music", "Bowed string instrument", "Timpani", "Brass instrument", "Violin, fiddle", "Cello")
        + 0.5 * m("classical", "strings", "violin"),
        "solo piano": 1.2 * a("Piano") + 0.9 * m("piano", "solo") - 2 * beat - m("drums", "beat"),
        "ambient": 1.6 * a("Ambient music", "New-age music") + 0.9 * m("ambient") + 0.4 * m("slow", "quiet") - beat,
        "techno": 1.3 * electronic + 0.5 * beat + 0.8 * m("techno", "dance"),
        "electronic": 0.8 * electronic + a("Synthesizer", "Sampler") + 0.5 * m("electronic", "synth"),
        "folk": 1.8 * a("Folk music", "Traditional music", "Accordion", "Bagpipes", "Banjo", "Mandolin", "Country")
        + 0.8 * a("Acoustic guitar", "Flute", "Harp")
        + 0.7 * m("folk", "country")
        + 0.5 * m("flute", "harp")
        + 0.25 * m("guitar")
        - 0.6 * m("electronic"),
        "jazz": 2.0 * a("Jazz", "Swing music", "Blues", "Saxophone") + 0.35 * m("jazz", "blues"),
        "percussion": 1.0 * a("Percussion", "Drum", "Drum kit", "Tabla", "Timpani", "Wood block", "Gong")
        + 0.5 * m("drums")
        - a("Guitar", "Synthesizer", "Piano", "Bowed string instrument")
        - 0.5 * m("guitar", "strings"),
        "tension": 2.5 * a("Scary music", "Angry music", "Exciting music") + 0.5 * a("Sad music"),
        "chiptune": 2.0 * a("Video game music") + 0.3 * m("synth"),
    }
    if not h.musicnn:  # one listener instead of two
        score = {kind: 1.6 * evidence for kind, evidence in score.items()}
    if h.row["artist"] == "Jim Redfarn":  # his pieces are the boogie-woogie and blues of the set
        score["jazz"] += 0.35
    for pattern, kind in TITLES.items():
        if re.search(pattern, h.row["title"].lower()):
            score[kind] += 0.35
    return score


INSTRUMENTS = {  # words: EfficientAT's tags, musicnn's tags, the least sum of the first, of the second
    "distorted guitars": (("Heavy metal", "Distortion"), ("metal",), 0.15, 0.15),
    "electric guitar": (("Electric guitar",), ("electric guitar",), 0.15, 0.3),
    "acoustic guitar": (("Acoustic guitar", "Classical guitar"), ("acoustic",), 0.08, 0.15),
    "guitar": (("Guitar",), ("guitar",), 0.2, 0.45),
    "piano": (("Piano",), ("piano",), 0.15, 0.4),
    "electric piano": (("Electric piano",), (), 0.25, 9),
    "harpsichord": (("Harpsichord",), ("harpsichord",), 0.15, 0.3),
    "violin": (("Violin, fiddle",), ("violin",), 0.2, 0.45),
    "strings": (("String section", "Bowed string instrument", "Violin, fiddle", "Cello"), ("strings",), 0.15, 0.25),
    "brass": (("Brass instrument", "Trumpet", "French horn", "Trombone"), (), 0.2, 9),
    "flute": (("Flute",), ("flute",), 0.12, 0.28),
    "saxophone": (("Saxophone",), (), 0.15, 9),
    "accordion": (("Accordion",), (), 0.15, 9),
    "harp": (("Harp",), ("harp",), 0.15, 0.25),
    "timpani": (("Timpani",), (), 0.12, 9),
    "hand drums": (("Tabla",), ("indian", "tabla"), 0.15, 0.4),
    "drums": (("Drum kit", "Drum machine", "Drum", "Drum and bass"), ("drums", "beat"), 0.18, 0.45),
    "synthesizers": (("Synthesizer", "Sampler", "Techno", "Trance music"), ("synth",), 0.2, 0.25),
    "bass guitar": (("Bass guitar",), (), 0.15, 9),
}
NOUNS = {  # how people ask for a kind: short, and in a sentence
    "metal": (["metal", "heavy metal", "metal guitars"], "metal track"),
    "rock": (["rock", "instrumental rock", "guitar rock"], "rock track"),
    "orchestral": (["orchestral music", "orchestra", "orchestral"], "orchestral piece"),
    "solo piano": (["solo piano", "solo piano music", "piano solo"], "solo piano piece"),
    "piano": (["piano music", "piano"], "piano piece"),
    "ambient": (["ambient", "ambient music", "ambient soundscape"], "ambient piece"),
    "techno": (["techno", "techno music"], "techno track"),
    "drum and bass": (["drum and bass", "breakbeat electronic music"], "drum and bass track"),
    "trance": (["trance", "trance techno"], "trance track"),
    "electronic": (["electronic music", "synthesizer music", "electronic"], "electronic piece"),
    "folk": (["folk", "folk music", "acoustic folk"], "folk piece"),
    "acoustic": (["acoustic music", "acoustic instrumental"], "acoustic piece"),
    "jazz": (["jazz", "jazz music", "jazz band"], "jazz piece"),
    "blues": (["blues", "blues jazz"], "blues"),
    "percussion": (["percussion", "percussion music", "drums and percussion"], "percussion piece"),
    "tension": (["tense film music", "film-like tension", "dark suspense music"], "tense, film-like piece"),
    "chiptune": (["chiptune", "8-bit chiptune", "retro game chiptune"], "chiptune"),
    "game": (["game music", "instrumental music", "video game music"], "instrumental piece"),
}


def kind_of(h: Heard) -> str:
    """The kind with the most evidence, `game` where none has enough."""
    score = kinds(h)
    best = max(score, key=lambda k: score[k])
    if score["metal"] > 0.5 and best in ("rock", "techno", "electronic"):
        return "metal"
    if (
        best in ("orchestral", "ambient", "chiptune", "electronic")
        and score["tension"] > 0.45
        and h.middle("onsets") < 4
    ):
        return "tension"
    if best == "chiptune" and not h.module and h.m("electronic", "synth") < 0.35 and h.a("Video game music") < 0.3:
        return "game"
    if score[best] < (0.6 if best == "techno" else 0.3):
        return "game"
    if best == "techno":
        if h.a("Drum and bass", "Dubstep") > h.a("Techno", "House music", "Trance music"):
            return "drum and bass" if h.middle("onsets") > 3 else "electronic"
        if h.middle("onsets") < 2.2 or (
            h.a("Techno", "House music", "Trance music", "Electronica") < 0.06 and h.m("techno") < 0.5
        ):
            return "electronic"
        return "trance" if h.a("Trance music") > 0.25 else "techno"
    if best == "ambient" and h.middle("onsets") > 3.5:
        return "electronic" if score["electronic"] > 0.3 else "game"
    if best == "solo piano" and h.a("Piano") + h.m("piano") < (0.5 if h.musicnn else 0.35):
        return "game"
    if best == "solo piano" and score["orchestral"] + score["jazz"] + score["electronic"] > score["solo piano"]:
        return "piano"
    if (
        best == "folk"
        and h.a("Folk music", "Traditional music", "Accordion", "Bagpipes", "Banjo", "Country") + h.m("folk") < 0.2
    ):
        return "acoustic"
    if best == "jazz" and h.a("Blues") > h.a("Jazz", "Swing music"):
        return "blues"
    return best


def instruments(h: Heard, kind: str) -> list[str]:
    """What is heard playing, surest first, three at most."""
    sure = {}
    for words, (a, m, enough, much) in INSTRUMENTS.items():
        if (weight := max(h.a(*a) / enough, h.m(*m) / much, (h.a(*a) / enough + h.m(*m) / much) * 0.6)) >= 1:
            sure[words] = weight
    for whole, part in (
        ("guitar", "electric guitar"),
        ("guitar", "acoustic guitar"),
        ("strings", "violin"),
        ("guitar", "distorted guitars"),
        ("electric guitar", "distorted guitars"),
        ("piano", "electric piano"),
    ):
        if whole in sure and part in sure:
            del sure[part if whole in ("strings", "piano") else whole]
    if kind == "solo piano":
        return ["piano"]
    if kind in ("chiptune", "techno", "trance", "drum and bass", "electronic"):
        sure = {
            w: s
            for w, s in sure.items()
            if w in ("drums", "synthesizers", "piano", "guitar", "electric guitar", "strings")
        }
    if kind == "orchestral":
        sure.pop("synthesizers", None)
    return sorted(sure, key=lambda w: -sure[w])[:3]


def moods(h: Heard, kind: str) -> list[str]:
    """Words for the mood, from EfficientAT's mood tags and from how loud, busy and dark the pieces are."""
    busy, loud = h.middle("onsets"), h.middle("loudness")
    words = []
    for word, tags, least in (
        ("aggressive", ("Angry music",), 0.12),
        ("eerie", ("Scary music",), 0.12),
        ("sad", ("Sad music",), 0.1),
        ("gentle", ("Tender music", "Lullaby"), 0.08),
        ("cheerful", ("Happy music", "Christmas music"), 0.06),
        ("exciting", ("Exciting music",), 0.1),
    ):
        if h.a(*tags) >= least:
            words.append(word)
    quiet_kind = kind in ("ambient", "solo piano", "piano", "folk", "acoustic", "orchestral", "game")
    if quiet_kind and h.most(lambda p: p["onsets"] < 2) and loud < -17 and "eerie" not in words:
        words.append("calm")
    if (
        kind in ("techno", "trance", "drum and bass", "metal", "rock", "electronic", "chiptune")
        and busy > 4.2
        and loud > -17
    ):
        words.append("energetic")
    if kind in ("ambient", "electronic", "tension", "orchestral") and h.most(lambda p: p["centroid"] < 1300):
        words.append("dark")
    if kind in ("orchestral", "tension") and loud > -16 and busy > 3:
        words += ["dramatic", "epic"]
    return list(dict.fromkeys(words))


def bpm_of(h: Heard) -> int | None:
    """Beats a minute where two pieces agree within 3 % and the beat is clear, else None."""
    clear = sorted(p["tempo"] for p in h.pieces if p["clarity"] >= 0.5 and p["onsets"] > 1.2)
    for a, b in pairwise(clear):
        if b <= 1.03 * a:
            return round((a + b) / 2)
    return None


def article(words: str) -> str:
    """The words after a or an."""
    return ("an " if words[0].lower() in "aeiou8" else "a ") + words


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def captions(h: Heard) -> tuple[str, list[str]]:
    """(kind, four phrasings)."""
    rng = random.Random(h.row["path"])
    kind = kind_of(h)
    short, noun = NOUNS[kind]
    feel, band, bpm = moods(h, kind), instruments(h, kind), bpm_of(h)
    busy = h.middle("onsets")
    fast = (
        "fast"
        if busy > 5.2 and (h.m("fast") > 0.3 or not h.musicnn)
        else "slow"
        if busy < 2 and (h.m("slow") > 0.12 or not h.musicnn)
        else ""
    )
    rise = h.pieces[2]["loudness"] - h.pieces[0]["loudness"]
    extra = ["getting louder"] if rise > 7 else ["getting quieter"] if rise < -7 else []
    if h.most(lambda p: p["loudness"] > -12.5):
        extra.append("loud")
    elif h.most(lambda p: p["loudness"] < -26):
        extra.append("quiet")
    if kind not in ("solo piano", "folk", "piano") and h.most(lambda p: p["low"] > 0.55):
        extra.append("with deep bass")
    if h.most(lambda p: p["centroid"] > 4600):
        extra.append("bright sound")
    elif h.most(lambda p: p["centroid"] < 1000):
        extra.append("muffled, dark sound")
    said_by_kind = {"percussion": ["drums"], "electronic": ["synthesizers"], "metal": ["distorted guitars"]}
    with_ = [w for w in band if w not in (kind, *said_by_kind.get(kind, []))]
    place = PACKAGES.get(h.row["package"], "video game")
    lead = rng.choice(feel or [fast or ""])
    playing = f" with {listed(with_)}" if with_ and kind != "solo piano" else ""
    pace = f", {bpm} bpm" if bpm else ""
    style = f" for {article(place)}" if rng.random() < 0.5 and kind != "solo piano" else ""
    said = [
        f"{lead} {rng.choice(short)}",
        f"{' '.join(filter(None, [fast if fast != lead else '', *feel[:2]]))} {short[1]}{playing}{pace}",
        f"{article(' '.join(filter(None, [fast, *feel[:2], noun])))}{playing}{style}"
        + "".join(f", {e}" for e in extra)
        + (f", around {bpm} beats per minute" if bpm else "")
        + ".",
        ", ".join(
            [
                short[0],
                *band,
                *feel,
                *([fast] if fast else []),
                *(["tracker music", "retro"] if h.module else []),
                f"{place} music",
                "instrumental",
            ]
        ),
    ]
    said = [" ".join(x.split()) for x in said]
    said[2] = said[2][0].upper() + said[2][1:]
    return kind, list(dict.fromkeys(said))


def listened(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The taggers' findings by package and path."""
    with path.open(encoding="utf-8", newline="") as f:
        return {(r["package"], r["path"]): r for r in csv.DictReader(f)}


def measured(rows: list[dict[str, str]], out: Path) -> dict[str, list[dict[str, float]]]:
    """The three pieces of every track by file, kept in OUT/.measured.json."""
    kept = out / ".measured.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    for row in rows:
        if row["file"] not in known:
            known[row["file"]] = measure.listen(out / row["file"])
    packages.write_whole(kept, json.dumps(known).encode())
    return known


def main(out: Path) -> None:
    """Rewrite the columns `kind` and `captions` of tracks.csv."""
    table = DATA / "tracks.csv"
    rows, tags = packages.read_tracks(table), listened(DATA / "listened.csv")
    numbers = measured(rows, out)
    for row in rows:
        row["kind"], said = captions(Heard(row, tags[row["package"], row["path"]], numbers[row["file"]]))
        row["captions"] = " | ".join(said)
    names = ["package", "path", "title", "artist", "licence", "split", "kind", "captions"]
    with table.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
