"""All that a take was made from, as a file's tags hold it: the same recipe on the same machine gives the same bytes."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ostinato
from ostinato.generation.fine_stage import identity
from ostinato.generation.pipeline import Ostinato
from ostinato.generation.precision import told
from ostinato.generation.sampling import Sampling
from ostinato.generation.settings import FineSampling
from ostinato.generation.streaming import Stream, Turn
from ostinato.utils.errors import UserError
from ostinato.utils.schema import build

MARK = "ostinato recipe "  # what the comment of a file with one begins with


@dataclass(frozen=True)
class Recipe:
    """turns: at least one, the first with the sentence and the seed; frames: new ones asked for, 0 where there was no
    end; samples: how much of it the take has, 0 for all; before [K, T0]: the codes it goes on from."""

    model: str
    model_id: str
    turns: tuple[Turn, ...]
    sampling: Sampling
    fine: FineSampling | None = None
    frames: int = 0
    samples: int = 0
    before: Tensor | None = None

    def __post_init__(self) -> None:
        """Raise UserError where the turns are in disorder."""
        frames = [0 if self.before is None else self.before.shape[-1], *(turn.frame for turn in self.turns[1:])]
        if sorted(set(frames)) != frames:
            raise UserError(f"the turns of a recipe must come one after another, got frames {frames}")

    @property
    def prompt(self) -> str:
        return self.turns[-1].prompt

    def stream(self, model: Ostinato) -> Stream:
        """The take from its beginning; it does not stop at `samples`. Raises UserError where this is another model than
        it was made with."""
        first, *later = self.turns
        codes = None if self.before is None else model.prompt_codes(1, self.before)
        return Stream(model, first.prompt, first.seed, self.sampling, codes, self.frames, fine=self.fine, turns=later)

    def to_json(self) -> dict[str, Any]:
        found = {
            "model": self.model,
            "model_id": self.model_id,
            "turns": [dataclasses.asdict(turn) for turn in self.turns],
            "sampling": dataclasses.asdict(self.sampling),
            "frames": self.frames,
            "samples": self.samples,
            "version": ostinato.__version__,
        }
        if self.fine is not None:
            found["fine"] = dataclasses.asdict(self.fine)
        if self.before is not None:
            found["before"] = pack_codes(self.before)
        return found

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Recipe":
        """What `to_json` gave. Raises UserError, in words, for anything else."""
        try:
            turns = tuple(build(Turn, turn, "recipe: turns") for turn in given["turns"])
            fine = given.get("fine")
            recipe = cls(
                str(given["model"]),
                str(given["model_id"]),
                turns,
                build(Sampling, given["sampling"], "recipe: sampling"),
                None if fine is None else build(FineSampling, fine, "recipe: fine"),
                whole(given.get("frames", 0), "frames"),
                whole(given.get("samples", 0), "samples"),
                None if given.get("before") is None else unpack_codes(given["before"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"this is not a valid recipe ({type(error).__name__}: {error})") from error
        if not turns:
            raise UserError("this is not a valid recipe: it has no turns")
        for turn in turns:
            whole(turn.seed, "seed")
        return recipe

    def tags(self) -> dict[str, str]:
        """For `write_audio`."""
        told = json.dumps(self.to_json(), separators=(",", ":"))
        return {"title": self.prompt, "software": f"Ostinato {ostinato.__version__}", "comment": MARK + told}


def from_tags(tags: Mapping[str, str]) -> Recipe | None:
    """The recipe in a file's tags, None where there is none. Raises UserError for a damaged one."""
    comment = tags.get("comment", "")
    if not comment.startswith(MARK):
        return None
    try:
        return Recipe.from_json(json.loads(comment[len(MARK) :]))
    except json.JSONDecodeError as error:
        raise UserError(f"the file's recipe is damaged ({error}): its sound is not, go on from that") from error


def whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise UserError(f"{what} must be a whole number from 0 to {2**63 - 1}, got {value!r:.40}")
    return value


def pack_codes(codes: Tensor) -> str:
    """codes [K, T] -> "K:" and 16-bit numbers in base64."""
    numbers = codes.cpu().numpy().astype("<u2").tobytes()
    return f"{len(codes)}:{base64.b64encode(numbers).decode()}"


def unpack_codes(text: str) -> Tensor:
    """The inverse of `pack_codes`. Raises UserError for anything else."""
    rows, _, packed = str(text).partition(":")
    try:
        numbers = np.frombuffer(base64.b64decode(packed, validate=True), "<u2")
        return torch.from_numpy(numbers.astype(np.int64)).reshape(int(rows), -1)
    except (ValueError, RuntimeError) as error:
        raise UserError("the codes to go on from are damaged; upload the file again") from error


def model_id(model: Ostinato) -> str:
    """16 hex digits that two models share when they make the same of the same: of all weights and their type."""
    digest = hashlib.sha256(f"{model.config.get('text')}{told(model.lm)}".encode())
    for weight in model.lm.state_dict().values():
        digest.update(weight.float().cpu().contiguous().numpy().tobytes())
    digest.update((identity(model.fine) if model.fine else "").encode())
    return digest.hexdigest()[:16]
