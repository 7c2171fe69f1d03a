"""An exported model played with ONNX Runtime and NumPy; nothing here imports torch.

The graphs compute all that can be computed; here is the order in which they are asked, and random numbers. These are
NumPy's: a seed gives another piece than in PyTorch. Greedy codes are PyTorch's.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.generation.schedule import noises, schedule
from ostinato.generation.settings import FineSampling, Sampling, ahead, longer
from ostinato.utils.errors import UserError
from ostinato.utils.schema import build

PIECE = 25  # frames of one piece of sound at the least
INSTALL = "run pip install 'ostinato[onnx]'"


class Noise:
    """The random numbers of one take."""

    def __init__(self, seed: int):
        self.codes, self.latents = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    def exponential(self, *shape: int) -> np.ndarray:
        """For a step of the language model."""
        return self.codes.standard_exponential(shape, np.float32)

    def normal(self, frames: int, *shape: int) -> np.ndarray:
        """For the fine stage: [*shape, frames], frame by frame, so that any split has the same."""
        rows = [self.latents.standard_normal(shape, np.float32) for _ in range(frames)]
        return np.stack(rows, -1) if rows else np.zeros((*shape, 0), np.float32)


def load_exported(folder: str | Path) -> "Exported":
    """The model that `ostinato export` wrote to `folder`. Raises UserError where it did not, or not to its end."""
    folder = Path(folder)
    path = folder / "ostinato.json"
    if not path.is_file():
        raise UserError(f"{folder} is no exported model (it has no ostinato.json): ostinato export MODEL {folder}")
    try:
        about = json.loads(path.read_text())
        sampling = build(Sampling, about["sampling"], f"{path}: sampling")
        fine, _ = about.get("fine"), about["codec"]["lookahead"]  # which older exports lack
        fine_sampling = None if fine is None else build(FineSampling, fine["sampling"], f"{path}: fine.sampling")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): export the model again") from error
    names = ["text", "read", "step", "decode"] + (["denoise"] if fine else [])
    names += ["fine-text"] if fine and fine["own_text"] else []
    graphs = {name: open_graph(folder / f"{name}.onnx") for name in names}
    return Exported(about, graphs, folder, sampling, fine_sampling)


def open_graph(path: Path) -> Any:
    """A session on one graph. Raises UserError where it is not there, not whole, or ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"playing exported models needs onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it holds back whoever shares the core
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds are of no common kind
        reason = str(error).strip().splitlines()[-1][:200]
        raise UserError(f"{path} cannot be loaded ({reason}): export the model again") from error


@dataclass
class Exported:
    """A model ready to play; `about` is ostinato.json."""

    about: dict[str, Any]
    graphs: dict[str, Any]
    folder: Path
    sampling: Sampling = field(default_factory=Sampling)
    fine: FineSampling | None = None
    tokenizers: dict[str, Any] = field(default_factory=dict)

    @property
    def sample_rate(self) -> int:
        return self.about["codec"]["sample_rate"]

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.about["codec"]["hop"]

    @property
    def context(self) -> int | None:
        return self.about["codec"]["context"]

    @property
    def lookahead(self) -> int:
        return self.about["codec"]["lookahead"]

    def play(
        self,
        prompt: str,
        frames: int = 0,
        seed: int = 0,
        settings: Sampling | None = None,
        on_frame: Callable[[int, int], None] | None = None,
        noise: Noise | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sound and its codes, piece by piece as they are made: samples [n * hop] in [-1, 1] and codes [K, n]; `frames`
        of them in all, 0: without end. on_frame: called with frames done and in all. noise: default, that of the seed.

        Raises UserError for an endless clip of a codec that cannot decode in pieces.
        """
        noise, settings = noise or Noise(seed), settings or self.sampling
        endless = self.frames(prompt, settings, noise)
        coarse = counted(islice(endless, frames or None), frames, on_frame)
        if self.fine is None:
            return self.sound((codes[None, :, None],) for codes in coarse)
        return self.sound(self.refine(coarse, prompt, settings.negative, self.fine, noise))

    def embed(self, text: str, graph: str = "text") -> np.ndarray:
        """text -> one vector a token [1, s, w]."""
        if graph not in self.tokenizers:
            from tokenizers import Tokenizer

            name = "tokenizer.json" if graph == "text" else "fine-tokenizer.json"
            self.tokenizers[graph] = Tokenizer.from_file(str(self.folder / name))
        most = (self.about["text"] if graph == "text" else self.about["fine"]["own_text"])["max_tokens"]
        tokenizer = self.tokenizers[graph]
        tokenizer.no_truncation()
        ids = tokenizer.encode(text).ids
        if len(ids) > most:
            warnings.warn(f"a text of {len(ids)} tokens is cut to the {most} that the model takes", stacklevel=2)
            tokenizer.enable_truncation(most)
            ids = tokenizer.encode(text).ids
        return self.graphs[graph].run(None, {"ids": np.array([ids or [0]], np.int64)})[0]

    def branches(self, prompt: str, negative: str, guidance: float, graph: str = "text") -> list[np.ndarray]:
        """The sentence and, for guidance, the text that it leads away from, each [1, s, w]."""
        return [self.embed(text, graph) for text in ([prompt] if guidance == 1 else [prompt, negative])]

    def frames(self, prompt: str, settings: Sampling, noise: Noise) -> Iterator[np.ndarray]:
        """The language model's codes [K], frame after frame without end."""
        lm, step = self.about["lm"], self.graphs["step"]
        K, V, stride, offset = lm["codebooks"], lm["codebook_size"], lm["stride"], lm["offset"]
        numbers = scalars(settings, "guidance", "temperature", "top_k", "top_p")
        text, state = self.read(prompt, settings)
        outputs, state_names = [o.name for o in step.get_outputs()], list(lm["state"])
        recent = np.full((K, offset * (K - 1) + 1), V, np.int64)  # the special code stands where no code is
        done = 0
        while True:
            given = {"codes": recent[None, :, -1], "noise": noise.exponential(1, K, V)}
            codes, *after = step.run(outputs, given | numbers | text | state)
            state = dict(zip(state_names, after, strict=True))
            at = [divmod(done - offset * k, stride) for k in range(K)]  # the frame of each codebook, if the rest is 0
            new = [code if rest == 0 and t >= 0 else V for code, (t, rest) in zip(codes[0], at, strict=True)]
            recent = np.concatenate([recent[:, 1:], np.array(new)[:, None]], 1)
            done += 1
            t, rest = at[-1]
            if rest == 0 and t >= 0:
                yield np.array([recent[k, offset * k] for k in range(K)])

    def read(self, prompt: str, settings: Sampling) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What `step` takes of the text at every frame, and the state before the first."""
        lm, rows = self.about["lm"], []
        texts = [
            dict(self.run("read", {"text": text}))
            for text in self.branches(prompt, settings.negative, settings.guidance)
        ]
        fresh = {n: np.zeros([1, *s["shape"][1:]], s["type"]) for n, s in lm["state"].items()}
        if lm["reads"] == "cross":
            return stacked_texts(texts), {name: np.repeat(value, len(texts), 0) for name, value in fresh.items()}
        nothing = {"codes": np.full((1, lm["codebooks"]), lm["codebook_size"] + 1)}
        nothing["noise"] = np.ones((1, lm["codebooks"], lm["codebook_size"]), np.float32)
        numbers = scalars(Sampling(), "guidance", "temperature", "top_k", "top_p")  # the codes are not looked at
        for text in texts:  # each alone, so that none is padded
            state = fresh
            for vector in text["prefix"][0]:
                after = self.run("step", nothing | numbers | {"prefix": vector[None]} | state)
                state = {name.removeprefix("next_"): value for name, value in after.items() if name != "next_codes"}
            rows.append(state)
        prefix = np.zeros((len(texts), texts[0]["prefix"].shape[2]), np.float32)
        return {"prefix": prefix}, {name: np.concatenate([row[name] for row in rows]) for name in fresh}

    def run(self, graph: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        names = [output.name for output in self.graphs[graph].get_outputs()]
        return dict(zip(names, self.graphs[graph].run(names, inputs), strict=True))

    def refine(
        self, coarse: Iterator[np.ndarray], prompt: str, negative: str, settings: FineSampling, noise: Noise
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Coarse codes [1], frame by frame -> stretches of them [1, 1, n] with their fine latents [1, F, n]: as
        `generation.windows` goes over a clip."""
        about = self.about["fine"]
        overlap, first, F = about["overlap"], about["first"], about["width"]
        more = longer(first)
        texts = self.branches(prompt, negative, settings.guidance, "fine-text" if about["own_text"] else "text")
        mask = np.arange(max(t.shape[1] for t in texts)) < np.array([[t.shape[1]] for t in texts])
        text = {"text": np.concatenate([padded(t, mask.shape[1], 1) for t in texts]), "text_mask": mask}
        count = noises(settings.sampler, settings.steps)
        codes, lots = np.zeros(0, np.int64), np.zeros((count, F, 0), np.float32)
        path = np.zeros((settings.steps + 1, F, 0), np.float32)  # what frames that were given out went through
        last = False
        while not last:
            new = [int(frame[0]) for frame in islice(coarse, first - len(codes))]
            codes = np.concatenate([codes, np.array(new, np.int64)])
            lots = np.concatenate([lots, noise.normal(len(new), count, F)], -1)
            done, last = path.shape[-1], len(codes) < first
            end = len(codes) if last else first - ahead(first, about["window"], overlap)
            if end == done:
                return
            path = self.denoise(codes, lots, path, text, settings)
            yield codes[None, None, done:end], path[None, -1, :, done:end]
            spare = max(0, end - overlap)
            codes, lots, path = codes[spare:], lots[..., spare:], path[..., spare:end]
            first = min(about["window"], first + more)

    def denoise(
        self, codes: np.ndarray, lots: np.ndarray, known: np.ndarray, text: dict[str, Any], settings: FineSampling
    ) -> np.ndarray:
        """The latents [steps + 1, F, n] before each step and after the last, of coarse codes [n] and noise [noises, F,
        n]; the first frames are kept as `known` [steps + 1, F, C]."""
        n, T = len(codes), self.about["fine"]["window"]
        given = scalars(settings, "guidance", "temperature")
        given |= text | {"codes": padded(codes[None, None], T, 2), "real": np.arange(T)[None] < n}
        lots, C = padded(lots, T, 2), known.shape[-1]
        x = lots[:1].copy()
        clean, path = np.zeros_like(x), []
        for i, step in enumerate(schedule(settings.sampler, settings.steps)):
            x[0, :, :C] = known[i]
            path.append(x[0, :, :n])
            given |= {"x": x, "before": clean, "noise": lots[min(i + 1, len(lots) - 1)][None]}
            x, clean = self.graphs["denoise"].run(["next_x", "clean"], given | {"step": np.array(step, np.float32)})
        x[0, :, :C] = known[-1]
        return np.stack([*path, x[0, :, :n]])

    def sound(self, parts: Iterable[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What `decode` takes, in stretches [1, ., n] -> samples and codes, as `play` gives them: with the frames
        before and after it that a frame's sound depends on."""
        context, kept, sent = self.context, None, 0
        for part in parts:
            kept = part if kept is None else tuple(np.concatenate(pair, -1) for pair in zip(kept, part, strict=True))
            if context is not None and (end := kept[0].shape[-1] - self.lookahead) - sent >= PIECE:
                yield self.decode(kept, sent, end)
                spare = max(0, end - context)
                kept, sent = tuple(x[..., spare:] for x in kept), end - spare
        if kept is not None:
            yield self.decode(kept, sent, kept[0].shape[-1])

    def decode(self, inputs: tuple[np.ndarray, ...], start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        hop, graph, context = self.about["codec"]["hop"], self.graphs["decode"], self.context
        first, last = (0, end) if context is None else (max(0, start - context), end + self.lookahead)
        names = [i.name for i in graph.get_inputs()]
        found = self.run("decode", {name: x[..., first:last] for name, x in zip(names, inputs, strict=True)})
        codes = found.get("codes", inputs[0][..., first:last])
        audio = found["audio"][0, (start - first) * hop : (end - first) * hop]
        return audio.clip(-1, 1), codes[0, :, start - first : end - first]


def counted(
    frames: Iterator[np.ndarray], count: int, on_frame: Callable[[int, int], None] | None
) -> Iterator[np.ndarray]:
    for done, codes in enumerate(frames, 1):
        if on_frame:
            on_frame(done, count)
        yield codes


def scalars(settings: Sampling | FineSampling, *names: str) -> dict[str, np.ndarray]:
    """Settings as a graph takes them."""
    values = {name: getattr(settings, name) for name in names}
    return {name: np.array(value, np.int64 if isinstance(value, int) else np.float32) for name, value in values.items()}


def padded(x: np.ndarray, length: int, axis: int) -> np.ndarray:
    """x with zeros at the end of an axis, up to `length`."""
    return np.pad(x, [(0, length - x.shape[i] if i == axis else 0) for i in range(x.ndim)])


def stacked_texts(texts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Keys and values of several texts [1, heads, s, w] as rows, padded to the longest, and which are real."""
    lengths = [next(iter(text.values())).shape[2] for text in texts]
    found = {name: np.concatenate([padded(text[name], max(lengths), 2) for text in texts]) for name in texts[0]}
    return {"text_mask": np.arange(max(lengths)) < np.array(lengths)[:, None]} | found
