"""A recipe: which stages a collection goes through, in which order, with which options. YAML becomes `Recipe`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ostinato.curate.stages import STAGES, Stage
from ostinato.utils.errors import UserError, nearest
from ostinato.utils.schema import build
from ostinato.utils.text_files import read_text

FORMATS = ("flac", "opus", "codes")


@dataclass(frozen=True)
class Step:
    """One line of a recipe: the name of a stage and its options."""

    name: str
    options: Any

    @property
    def stage(self) -> Stage:
        return STAGES[self.name]


@dataclass(frozen=True)
class Recipe:
    """seed: of every choice. sample_rate: Hz of the clips. format: flac, opus (48000 Hz) or codes (no audio is written:
    the result is a store of `codec`'s codes)."""

    steps: tuple[Step, ...]
    seed: int = 0
    sample_rate: int = 44100
    format: str = "flac"
    codec: str = "dac"

    def before_cut(self) -> tuple[Step, ...]:
        return self.steps[: self._cut]

    def after_cut(self) -> tuple[Step, ...]:
        return self.steps[self._cut + 1 :]

    @property
    def cut(self) -> Any:
        return self.steps[self._cut].options

    @property
    def _cut(self) -> int:
        return [step.name for step in self.steps].index("cut")

    def find(self, name: str) -> Any:
        """The options of a stage, None where the recipe has no such line."""
        return next((step.options for step in self.steps if step.name == name), None)

    def as_dict(self) -> dict:
        rest = {k: v for k, v in vars(self).items() if k != "steps"}
        return {**rest, "stages": [{step.name: asdict(step.options)} for step in self.steps]}

    def digest(self) -> str:
        """16 hex digits of all that decides what comes out."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def load_recipe(path: str | os.PathLike, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe. settings: "stage.option=value", "stage=off" to leave a line out, or "seed=1" and the like.

    Raises: UserError for a file, a stage, an option or a value that cannot be, and for an order that makes no sense.
    """
    values = _read(path)
    lines = values.pop("stages", None)
    if not isinstance(lines, list) or not lines:
        raise UserError(f"recipe {path} lacks its list of stages; configs/data-paper.yaml is one to begin with")
    named = [_line(line, path) for line in lines]
    for setting in settings:
        _set(named, values, setting)
    for key in values:
        if key not in (top := [name for name in Recipe.__dataclass_fields__ if name != "steps"]):
            raise UserError(f"recipe {path} has {key!r}; {nearest(str(key), [*top, 'stages'])}")
    steps = []
    for name, options in named:
        # A file that a recipe names is looked for beside the recipe: it may be run from any folder.
        built: Any = build(STAGES[name].options, options, name)
        steps.append(Step(name, STAGES[name].settle(built, Path(path).parent)))
    recipe = Recipe(tuple(steps), **values)
    _check(recipe, path)
    return recipe


def _read(path: str | os.PathLike) -> dict:
    try:
        values = yaml.safe_load(read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"no recipe {path}; configs/data-free.yaml is one to begin with") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {path} should hold 'key: value' lines, and holds a {type(values).__name__}")
    return values


def _line(line: Any, path: str | os.PathLike) -> tuple[str, dict]:
    if isinstance(line, str):
        line = {line: {}}
    if not isinstance(line, dict) or len(line) != 1:
        raise UserError(f"recipe {path}: a stage is one line such as 'silence: {{max_seconds: 15}}', got {line!r}")
    name, options = next(iter(line.items()))
    if name not in STAGES:
        raise UserError(f"recipe {path} has a stage {name!r}; {nearest(str(name), list(STAGES))}")
    return name, dict(options or {})


def _set(named: list[tuple[str, dict]], values: dict, setting: str) -> None:
    key, equals, text = setting.partition("=")
    name, _, option = key.partition(".")
    if not equals:
        raise UserError(f"--set takes stage.option=value or seed=value; got {setting!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: the value is not YAML") from error
    lines = [options for stage, options in named if stage == name]
    if name in STAGES and not lines:
        raise UserError(f"--set {setting}: the recipe has no line {name!r}; it has {', '.join(n for n, _ in named)}")
    if name in STAGES and not option:
        if value is not False:
            raise UserError(f"--set {setting}: write {name}=off to leave the stage out, or {name}.option=value")
        named[:] = [line for line in named if line[0] != name]
    elif name in STAGES:
        for options in lines:
            options[option] = value
    else:
        values[key] = value


def _check(recipe: Recipe, path: str | os.PathLike) -> None:
    names = [step.name for step in recipe.steps]
    if names.count("cut") != 1:
        raise UserError(f"recipe {path} needs the stage 'cut' exactly once, and has it {names.count('cut')} times")
    for step in recipe.before_cut():
        if step.stage.on != "track":
            raise UserError(f"recipe {path}: {step.name!r} looks at clips; put it after 'cut'")
    for step in recipe.after_cut():
        if step.stage.on != "clip":
            raise UserError(f"recipe {path}: {step.name!r} looks at whole tracks; put it before 'cut'")
    if "one_clip" in names and names[-1] != "one_clip":
        raise UserError(f"recipe {path}: 'one_clip' chooses among the clips that are left; put it last")
    once = [step.name for step in (*recipe.before_cut(), *recipe.steps[-1:])]
    if doubled := sorted({name for name in once if names.count(name) > 1 and name not in ("silence", "vocal_words")}):
        raise UserError(f"recipe {path} has {', '.join(doubled)} twice; one line is enough")
    if recipe.format not in FORMATS:
        raise UserError(f"recipe {path}: format {recipe.format!r}; {nearest(str(recipe.format), FORMATS)}")
    if not isinstance(recipe.sample_rate, int) or not 8000 <= recipe.sample_rate <= 192000:
        raise UserError(f"recipe {path}: sample_rate {recipe.sample_rate!r}; give Hz from 8000 to 192000")
    if recipe.format == "opus" and recipe.sample_rate != 48000:
        raise UserError(f"recipe {path}: Opus is 48000 Hz inside, sample_rate is {recipe.sample_rate}: set 48000")
