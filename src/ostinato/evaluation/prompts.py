"""Prompt sets: the sentences that models are compared on, and the names their clips go by.

MusicCaps (arXiv 2301.11325) and the Song Describer dataset (arXiv 2311.10057), both CC BY-SA 4.0, are fetched from
where their authors keep them, or given by path; nothing of them ships with this package.
"""

import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ostinato.evaluation.networks.base import fetch_weights, weights_folder
from ostinato.utils.errors import UserError

# Words by which a caption names a voice; a caption is left out for any of them, also where it says there is none, as
# in "no vocals": the paper (section IV-B) excludes "captions with vocal-related terms", and prints no list.
VOCAL_WORDS = re.compile(
    r"\b(vocals?|vocalists?|vocali[sz]\w*|voices?|voiced|sing|sings|singing|singers?|sang|sung|choirs?|choral|chants?"
    r"|chanting|rap|raps|rapping|rappers?|rapped|lyrics?|acapp?ella|cappella|beatbox\w*|humming|hums|yodel\w*|croon\w*"
    r"|scat|scatting|falsetto|spoken|speech|speaks?|speaking|talk|talks|talking|narrat\w*|whisper\w*|shout\w*|scream\w*"
    r"|karaoke)\b",
    re.IGNORECASE,
)
NAME_COLUMNS = ("name", "ytid", "caption_id", "id", "path")
TEXT_COLUMNS = ("caption", "prompt", "text")
PLACES = {
    "musiccaps": "https://huggingface.co/datasets/google/MusicCaps/resolve/main/musiccaps-public.csv",
    "song-describer": "https://zenodo.org/records/10072001/files/song_describer.csv",
}


@dataclass(frozen=True)
class Prompt:
    """A sentence, the stem of its clip's file name, and the stems its real recording may go by, the likeliest first."""

    name: str
    text: str
    real: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their seeds. `about` says where they are from and what was left out, for results.json."""

    name: str
    prompts: tuple[Prompt, ...]
    about: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)


def load_prompts(spec: str, count: int | None = None, seed: int = 0, vocals: bool = False) -> PromptSet:
    """A prompt set by name, "name:PATH", or the path of a CSV, and of it `count` prompts sampled by `seed`.

    `musiccaps`, `song-describer`: fetched on first use, or read from PATH; `attm`: from PATH only, see `ATTM`. A CSV of
    one's own has a column caption (or prompt, text) and may have one of names (name, id or path).
    vocals: keep captions that name a voice (see `VOCAL_WORDS`); the paper leaves them out, and so does the default. A
    smaller sample of a seed is the beginning of a larger one.

    Raises: UserError for an unknown set, a file that cannot be read or lacks captions, a name that comes twice, and for
    more prompts than there are.
    """
    name, _, given = spec.partition(":")
    if spec in PLACES:
        path, place = fetch_weights(PLACES[spec], folder=weights_folder().parent / "prompts"), PLACES[spec]
    elif spec == "attm":
        raise UserError(ATTM)
    elif name in (*PLACES, "attm") and given:
        path, place = Path(given), given
    elif spec.lower().endswith(".csv"):
        path, place, name = Path(spec), spec, Path(spec).stem
    else:
        raise UserError(f"no prompt set {spec!r}: give musiccaps, song-describer, attm:PATH or the path of a .csv")
    prompts = read_prompts(path)
    kept = prompts if vocals else [p for p in prompts if not VOCAL_WORDS.search(p.text)]
    about = {
        "source": str(place),
        "captions": len(prompts),
        "left_out_for_vocals": len(prompts) - len(kept),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    if not kept:
        raise UserError(f"every caption of {path} names a voice: pass --vocals to keep them")
    return sample(PromptSet(name, tuple(kept), about), count, seed)


ATTM = (
    "the test prompts and the reference recordings of the ICME 2026 academic text-to-music challenge are not public: "
    "give captions of your own as attm:FILE.csv; what is public of its protocol, the first 10 s of each clip, the CLAP "
    "score and FAD in the space of the same CLAP, is then applied"
)


def sample(prompts: PromptSet, count: int | None, seed: int) -> PromptSet:
    """The first `count` prompts of the order that `seed` puts their names in; None: all, in that order."""
    if count is not None and not 1 <= count <= len(prompts):
        raise UserError(f"{count} prompts were asked, and {prompts.name} has {len(prompts)}: ask for 1 to that many")
    by_name = sorted(prompts.prompts, key=lambda p: p.name)
    order = np.random.default_rng(seed).permutation(len(by_name))[:count]
    return replace(
        prompts, prompts=tuple(by_name[i] for i in order), about=prompts.about | {"drawn": len(order), "seed": seed}
    )


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a CSV file. Errors: `load_prompts`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read prompts from {path} ({error}): give a CSV file in UTF-8") from error
    if not rows:
        raise UserError(f"{path} has no captions: it needs a first line of column names, and rows below it")
    text = next((column for column in TEXT_COLUMNS if column in rows[0]), None)
    named = next((column for column in NAME_COLUMNS if column in rows[0]), None)
    if text is None:
        raise UserError(f"{path} has no column {', '.join(TEXT_COLUMNS)}; it has {', '.join(map(str, rows[0]))}")
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        words, stem = (row[text] or "").strip(), safe_stem((row[named] or "").strip() if named else f"{line - 1:05d}")
        if not words or not stem:
            raise UserError(f"{path}, row {line - 1}: {'no caption' if stem else 'no name'}; fill it in or take it out")
        if stem in seen:
            raise UserError(f"{path}, rows {seen[stem]} and {line - 1}: both are named {stem!r}; rename one")
        seen[stem] = line - 1
        prompts.append(Prompt(stem, words, tuple(real_stems(stem, row))))
    return prompts


def real_stems(stem: str, row: dict) -> Iterable[str]:
    """Stems under which the recording that a row describes may lie: Song Describer has several captions a track."""
    yield stem
    if track := row.get("track_id"):
        yield from (f"{track}.2min", track)


def safe_stem(name: str) -> str:
    """`name` as the stem of a file: folders, and a suffix of audio, taken off; what file systems refuse, replaced."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = re.sub(r"\.(wav|flac|ogg|opus|mp3)$", "", name, flags=re.IGNORECASE)
    return re.sub(r'[<>:"|?*\x00-\x1f]', "_", name)
