"""A test folder: test.json, which says which clip is of which system and never leaves the server, the clips under
random names, and, once somebody has listened, ratings.db."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostinato.utils.errors import UserError

FORMAT = 1
MODES = ("scales", "pairs")
# The paper's, section IV-B, word for word.
SCALES = {
    "consistency": "Measures local and global musical coherence, including melody, rhythm, and overall structure.",
    "alignment": "Assesses how well the input text prompt is reflected in the generated audio, for descriptions "
    "related to either explicit attributes (e.g., instrumentation, tempo) or abstract semantics (e.g., mood, style).",
    "overall": "Evaluates the musicality, naturalness, and general listenability of the generated audio.",
}
LIKERT = (1, 2, 3, 4, 5)  # 1 = poor, 5 = excellent
HEADPHONES_PASS = 5  # right answers of six (Woods et al. 2017)


@dataclass(frozen=True)
class System:
    """What made a clip. kind: model or clips (judged), reference (real recordings) or anchor (these, low-passed);
    about: as in the evaluation's results.json, with the seconds that were heard."""

    name: str
    kind: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    name: str
    text: str


@dataclass(frozen=True)
class Stimulus:
    """A file of clips/, its prompt and system by number. beeps: for an attention clip, how many there are in it."""

    file: str
    prompt: int
    system: int
    seconds: float
    beeps: int | None = None


@dataclass(frozen=True)
class Trial:
    """One trial of the headphone check: its file, and which of the three tones (0, 1, 2) is the quietest."""

    file: str
    answer: int


@dataclass(frozen=True)
class ListeningTest:
    """All of test.json. session: prompts (or pairs) of one listener; loudness: LUFS of every clip."""

    id: str
    title: str
    mode: str
    session: int
    heard_in_full: bool
    consent: tuple[str, ...]
    loudness: float
    sample_rate: int
    seed: int
    systems: tuple[System, ...]
    prompts: tuple[Prompt, ...]
    stimuli: tuple[Stimulus, ...]
    volume: str | None = None
    trials: tuple[Trial, ...] = ()

    def of_prompt(self, prompt: int) -> dict[int, Stimulus]:
        """The clips of a prompt, by system."""
        return {s.system: s for s in self.stimuli if s.prompt == prompt and s.beeps is None}

    def attention_of(self, prompt: int) -> Stimulus | None:
        return next((s for s in self.stimuli if s.prompt == prompt and s.beeps is not None), None)


def read_test(folder: Path) -> ListeningTest:
    """The test in a folder. Raises UserError where there is none, or a damaged one."""
    path = folder / "test.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no listening test (no test.json): make one with `ostinato listen prepare`")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT or raw["mode"] not in MODES:
            raise UserError(f"{path} is of another version of Ostinato: prepare the test again")
        many = {"systems": System, "prompts": Prompt, "stimuli": Stimulus, "trials": Trial}
        made = {key: tuple(kind(**entry) for entry in raw[key]) for key, kind in many.items()}
        test = ListeningTest(**raw | made | {"consent": tuple(raw["consent"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): prepare the test again") from error
    names = [s.file for s in test.stimuli] + [t.file for t in test.trials] + ([test.volume] if test.volume else [])
    for name in names:
        if Path(name).name != name or not (folder / "clips" / name).is_file():
            raise UserError(f"{folder}/clips lacks {name!r}, which test.json names: copy the folder again")
    return test
