"""What the studio plays from: models, a limited number of places at them with a queue before it, and takes on disk."""

import asyncio
import dataclasses
import secrets
import tempfile
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ostinato.generation.pipeline import Ostinato
from ostinato.generation.recipe import Recipe, model_id, unpack_codes, whole
from ostinato.generation.rows import LEAST, Rows
from ostinato.generation.sampling import Sampling
from ostinato.generation.settings import FineSampling
from ostinato.generation.streaming import Stream, Turn, early
from ostinato.studio.web import Refusal
from ostinato.utils.audio import read_tags, stream_audio, write_audio
from ostinato.utils.schema import build

T = TypeVar("T")
LONGEST_WINDOW = 60.0  # s of a fine stage's window: all of it is held at once


@dataclass(frozen=True)
class Limits:
    """What one listener may ask of the server."""

    places: int = 1  # generations at once; others wait
    waiting: int = 20  # who may wait
    seconds: float = 600.0  # of a clip that is asked for whole
    prompt: int = 1000  # characters
    upload: int = 32 * 2**20  # bytes
    before: float = 20.0  # s of a file that a take goes on from, its end
    kept_seconds: float = 1800.0  # of a take, for download; a stream may go on after that
    takes: int = 100  # kept, the newest
    paused: float = 900.0  # s that a listener who hears nothing keeps the place


class Places:
    """So many at a time, the others in the order in which they came."""

    def __init__(self, limit: int, waiting: int):
        self.free, self.most, self.queue = limit, waiting, deque[asyncio.Event]()

    @asynccontextmanager
    async def take(self, tell: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Wait for a place; `tell` is told the number in the queue, 1 for the next. Raises Refusal (503) where too many
        wait. Whoever leaves, or is cancelled, makes room at once."""
        if len(self.queue) >= self.most:
            raise Refusal(f"{self.most} are waiting already; try again in a few minutes", 503, {"retry-after": "60"})
        me, told = asyncio.Event(), 0
        self.queue.append(me)
        try:
            while True:
                me.clear()  # before looking: what changes from here on is not missed
                if self.queue[0] is me and self.free:
                    break
                if (place := self.queue.index(me) + 1) != told:
                    await tell(told := place)
                await me.wait()
            self.free -= 1
        finally:
            self.queue.remove(me)
            self.stir()
        try:
            yield
        finally:
            self.free += 1
            self.stir()

    def stir(self) -> None:
        for waiting in self.queue:
            waiting.set()


@dataclass
class Take:
    """What was made, 16-bit samples in a file of the server's own, and its recipe so far."""

    id: str
    path: Path
    rate: int
    recipe: Recipe
    limit: int  # samples kept
    samples: int = 0

    def write(self, position: int, pcm: bytes) -> None:
        """Put samples at `position`, which is at most the end so far; what stood there goes."""
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            room = max(0, self.limit - position)
            file.truncate(2 * min(position, self.limit))
            file.seek(0, 2)
            file.write(pcm[: 2 * room])
        self.samples = min(self.limit, position + len(pcm) // 2)

    def audio(self) -> Tensor:
        """[1, samples]."""
        pcm = np.fromfile(self.path, "<i2") if self.path.exists() else np.zeros(0, "<i2")
        return torch.from_numpy(pcm[: self.samples].astype(np.float32) / 32768)[None]


class Engine:
    """Models by name, the default first; `close` when done. All heavy work goes through `run`, in threads."""

    def __init__(self, models: dict[str, Ostinato], limits: Limits | None = None):
        self.limits = limits or Limits()
        self.models = models
        self.ids = {name: model_id(model) for name, model in models.items()}
        for model in models.values():
            if self.limits.places > 1 or model.device.type == "cpu":  # alone on a GPU, a CUDA graph is faster
                model.frames = Rows(min(self.limits.places, LEAST)).frames
        self.places = Places(self.limits.places, self.limits.waiting)
        self.threads = ThreadPoolExecutor(self.limits.places + 1, "ostinato")
        self.folder = tempfile.TemporaryDirectory(prefix="ostinato-studio-")
        self.takes: OrderedDict[str, Take] = OrderedDict()

    def close(self) -> None:
        self.threads.shutdown(cancel_futures=True)
        self.folder.cleanup()

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(work, *given))

    def model(self, name: str | None) -> tuple[str, Ostinato]:
        name = name or next(iter(self.models))
        if name not in self.models:
            raise Refusal(f"this server has no model {name[:80]!r}; it has {', '.join(self.models)}", 404)
        return name, self.models[name]

    def recipe(self, asked: dict[str, Any]) -> Recipe:
        """What a request asks for: a recipe as it stands, or prompt, seconds (none: without end), seed, model, before
        (codes), and settings of `Sampling` and "steps". Raises Refusal for what is not allowed."""
        if "recipe" in asked:
            if not isinstance(asked["recipe"], dict):
                raise Refusal("recipe must be a JSON object, as a file's tags have it")
            recipe = Recipe.from_json(asked["recipe"])
            if self.ids[self.model(recipe.model)[0]] != recipe.model_id:
                raise Refusal(f"this server's {recipe.model} is not the model this take was made with", 409)
        else:
            recipe = self.new_recipe(asked)
        self.check(recipe)
        return recipe

    def new_recipe(self, asked: dict[str, Any]) -> Recipe:
        known = {"type", "prompt", "seconds", "seed", "model", "before", "sampling", "steps", "format"}
        if strange := sorted(set(asked) - known):
            raise Refusal(f"there is no setting {strange[0][:40]!r}; there are {', '.join(sorted(known - {'type'}))}")
        name, model = self.model(asked.get("model"))
        settings = asked.get("sampling") or {}
        if not isinstance(settings, dict):
            raise Refusal('sampling must be an object, such as {"guidance": 4}')
        sampling = build(Sampling, dataclasses.asdict(model.sampling) | settings, "sampling")
        seconds, frames = asked.get("seconds"), 0
        if seconds is not None:
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise Refusal(f"seconds must be a number, got {str(seconds)[:40]!r}")
            if seconds > self.limits.seconds:
                raise Refusal(f"at most {self.limits.seconds:g} seconds are made here, {seconds:g} were asked for")
            frames = model.frame_count(seconds)
        before = None if asked.get("before") is None else unpack_codes(asked["before"])
        seed, begins = whole(asked.get("seed", 0), "seed"), 0 if before is None else before.shape[-1]
        turn = Turn(begins, asked.get("prompt", ""), seed)
        fine = fine_settings(model, asked.get("steps"))
        return Recipe(name, self.ids[name], (turn,), sampling, fine, frames, before=before)

    def check(self, recipe: Recipe) -> None:
        model = self.models[recipe.model]
        for turn in recipe.turns:
            self.check_prompt(turn.prompt)
        if len(recipe.turns) > 1000:
            raise Refusal(f"a take of {len(recipe.turns)} turns; at most 1000 are made again", 413)
        if recipe.frames > self.limits.seconds * model.codec.frame_rate:
            raise Refusal(f"at most {self.limits.seconds:g} seconds are made here", 413)
        if recipe.samples > self.limits.kept_seconds * model.codec.sample_rate:
            raise Refusal(f"at most {self.limits.kept_seconds:g} seconds of a take are made again", 413)
        if recipe.before is not None and recipe.before.shape[-1] > self.limits.before * model.codec.frame_rate + 1:
            raise Refusal(f"a take goes on from at most {self.limits.before:g} seconds", 413)
        if (recipe.fine is None) != (model.fine is None):
            raise Refusal(f"the recipe's fine stage is not that of {recipe.model}", 409)
        if recipe.fine and recipe.fine.window > LONGEST_WINDOW:
            raise Refusal(f"windows of the fine stage have at most {LONGEST_WINDOW:g} seconds here", 413)

    def check_prompt(self, prompt: Any) -> None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise Refusal("the prompt is empty; write a sentence that says what to play")
        if len(prompt) > self.limits.prompt:
            raise Refusal(f"a prompt of {len(prompt)} characters; at most {self.limits.prompt} are taken", 413)

    async def begin(self, recipe: Recipe) -> tuple[Stream, Take]:
        model = self.models[recipe.model]
        stream = await self.run(recipe.stream, model)
        rate = model.codec.sample_rate
        name = secrets.token_urlsafe(12)
        take = Take(name, Path(self.folder.name) / name, rate, recipe, round(self.limits.kept_seconds * rate))
        self.takes[name] = take
        while len(self.takes) > self.limits.takes:
            self.takes.popitem(last=False)[1].path.unlink(missing_ok=True)
        return stream, take

    def find(self, name: str) -> Take:
        if name not in self.takes:
            raise Refusal("that take is no longer on the server; make it again", 404)
        return self.takes[name]

    def file(self, take: Take, suffix: str) -> bytes:
        """The take so far as a file of this suffix, with its recipe in the tags."""
        with tempfile.TemporaryDirectory(dir=self.folder.name) as folder:
            path = Path(folder) / f"take.{suffix}"
            recipe = dataclasses.replace(take.recipe, samples=take.samples)
            write_audio(path, take.audio(), take.rate, recipe.tags())
            return path.read_bytes()

    def read(self, data: bytes, suffix: str, name: str | None) -> tuple[dict[str, str], Tensor]:
        """An uploaded file: its tags, and the codes [K, T0] of its last `limits.before` seconds."""
        _, model = self.model(name)
        with tempfile.TemporaryDirectory(dir=self.folder.name) as folder:
            path = Path(folder) / f"upload{suffix}"
            path.write_bytes(data)
            tags = read_tags(path)
            audio = tail(path, model.codec.sample_rate, self.limits.before)
        codes = model.codec.encode(audio[None].to(model.device))[0, : model.num_codebooks]
        return tags, codes.cpu()


def tail(path: Path, rate: int, seconds: float) -> Tensor:
    """The last seconds of a file, [1, samples], without decoding all of it at once."""
    kept: deque[Tensor] = deque(maxlen=round(seconds) + 2)
    for piece in stream_audio(path, rate, 1.0):
        kept.append(piece)
    return torch.cat(list(kept), -1)[:, -round(seconds * rate) :]


def fine_settings(model: Ostinato, steps: Any) -> FineSampling | None:
    if model.fine is None:
        if steps is not None:
            raise Refusal("steps is for models of two stages; leave it out")
        return None
    settings = model.fine.sampling
    steps = settings.steps if steps is None else whole(steps, "steps")
    return early(model, dataclasses.replace(settings, steps=steps))


@dataclass
class Pace:
    """How fast music is made: seconds of it in a second of work, of late."""

    made: float = 0.0
    worked: float = 0.0

    def add(self, made: float, worked: float) -> None:
        self.made, self.worked = 0.98 * self.made + made, 0.98 * self.worked + worked

    @property
    def speed(self) -> float:
        return self.made / self.worked if self.worked else 0.0
