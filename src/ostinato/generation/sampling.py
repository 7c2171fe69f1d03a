"""Sampling: guidance, temperature, top-k and top-p, and the loop that generates frame after frame."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ostinato.generation.cuda_graph import Step, graphed
from ostinato.generation.guidance import both_branches, guide
from ostinato.generation.settings import Sampling
from ostinato.models.lm import LMState, MusicLM
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic
from ostinato.utils.threads import one_thread

# Products (weights times rows) up to which a step on a CPU is one thread's: a thousand small operators lose more by
# waiting for a second one than it saves (LOG.md, two cores). More work than that is better shared.
ONE_THREAD = 200_000_000
BLOCK = {"cuda": 32}  # steps whose noise is drawn at once: there each row of each draw is a kernel to start


def sample(logits: Tensor, settings: Sampling, generators: list[torch.Generator]) -> Tensor:
    """logits [b, K, V] -> codes [b, K]; row i is sampled by its own generator, whatever else is in the batch."""
    return pick(logits, settings, exponential(logits.shape[1:], generators, logits.device, settings))


def exponential(
    shape: Sequence[int], generators: list[torch.Generator], device: torch.device, settings: Sampling
) -> Tensor:
    """The noise of a sample, [b, *shape], each row by its own generator; nothing is drawn where nothing is sampled."""
    if settings.temperature == 0:
        return torch.ones(len(generators), *shape, device=device)
    return torch.stack([torch.empty(shape, device=device).exponential_(generator=g) for g in generators])


def choose(logits: Tensor, settings: Sampling, noise: Tensor) -> Tensor:
    """logits [b, K, V], with guidance [2b, K, V], the special token last, and noise [b, K, V - 1] -> codes [b, K]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # before their difference is taken
    logits = logits if settings.guidance == 1 else guide(logits, settings.guidance)
    return pick(logits[..., :-1], settings, noise)  # the special token is never sampled


def pick(logits: Tensor, settings: Sampling, noise: Tensor) -> Tensor:
    """logits and exponential noise [b, K, V] -> codes [b, K]. Nothing here waits for a GPU."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        least = logits.topk(settings.top_k, -1, sorted=False).values.amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, float("-inf"))
    if settings.top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= settings.top_p  # keeps the code that crosses top_p
        logits = logits.masked_fill(beyond.gather(-1, order.argsort(-1)), float("-inf"))
    # The Gumbel-max trick, as a race: argmax of p / e with e exponential is a sample of p.
    return (logits.softmax(-1) / noise).argmax(-1)


@dataclass
class Generation:
    """A generation under way: everything that the next frame depends on. `save` and `load` resume it."""

    settings: Sampling
    generators: list[torch.Generator]  # one a row
    state: LMState  # of b rows, or 2b with guidance
    prompt_codes: Tensor  # [b, K, T0] codes to continue from
    recent: Tensor  # [b, K, w] the last steps, enough to put a frame together
    done: int = 0  # steps sampled or taken from the prompt
    noise: Tensor | None = None  # [b, n, K, V - 1], drawn for the next n steps

    def next_noise(self, shape: Sequence[int]) -> Tensor:
        """Of one step, [b, *shape]; drawn for a `BLOCK` of steps at once."""
        if self.noise is None or not self.noise.shape[1]:
            device = self.recent.device
            several = (BLOCK.get(device.type, 1), *shape)
            self.noise = exponential(several, self.generators, device, self.settings)
        first, self.noise = self.noise[:, 0], self.noise[:, 1:]
        return first

    @property
    def branches(self) -> int:
        """Rows of the state for each row of codes: with guidance two."""
        return 1 if self.settings.guidance == 1 else 2

    def put(self, codes: Tensor, lm: MusicLM) -> Tensor | None:
        """Take the codes [b, K] of the next step, those of the prompt in place of sampled ones; returns the codes
        [b, K] of the frame that is whole with it, if it is a new one."""
        pattern, K, T0, w = lm.pattern, codes.shape[1], self.prompt_codes.shape[2], self.recent.shape[2]
        for k in range(K):
            t = pattern.frame(self.done, k)
            if t is None:
                codes[:, k] = lm.special
            elif t < T0:
                codes[:, k] = self.prompt_codes[:, k, t]
        self.recent = torch.cat([self.recent[:, :, 1:], codes.unsqueeze(-1)], 2) if w > 1 else codes.unsqueeze(-1)
        self.done += 1
        t = pattern.frame(self.done - 1, K - 1)
        if t is None or t < T0:
            return None
        return torch.stack([self.recent[:, k, w - 1 - pattern.offset * (K - 1 - k)] for k in range(K)], 1)

    def save(
        self, path: str | Path, more: dict[str, Tensor] | None = None, about: dict[str, str] | None = None
    ) -> None:
        """Write a .safetensors file, whole or not at all, with `more` tensors and `about` as metadata. Raises UserError
        if that fails."""
        tensors = {f"lm.{name}": t for name, t in self.state.tensors().items()} | {
            "given": self.prompt_codes,
            "recent": self.recent,
        }
        if self.noise is not None and self.noise.shape[1]:
            tensors["noise"] = self.noise
        tensors |= {f"generator.{i}": g.get_state() for i, g in enumerate(self.generators)}
        tensors |= more or {}
        metadata = {"settings": json.dumps(asdict(self.settings)), "done": str(self.done)} | (about or {})
        # Copies: sub-layers share the mask of the text, and a file must not.
        tensors = {name: t.cpu().contiguous().clone() for name, t in tensors.items()}
        write_atomic(Path(path), lambda temporary: save_file(tensors, temporary, metadata))

    @classmethod
    def load(cls, path: str | Path, lm: MusicLM) -> "Generation":
        """Read what `save` wrote, for the same model. Raises UserError if the file is not that, or of other sizes."""
        device = lm.device
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            settings, done = Sampling(**json.loads(metadata["settings"])), int(metadata["done"])
            generators = []
            for i in range(len(tensors["given"])):
                generators.append(torch.Generator(device))
                generators[-1].set_state(tensors[f"generator.{i}"])
            tensors = {name: t.to(device) for name, t in tensors.items()}
            position = tensors["lm.position"]
            text = lm.condition_linear.weight.new_zeros(len(position), 1, lm.config.text_width)
            state = lm.start(text, torch.ones(len(position), 1, dtype=torch.bool, device=device))
            saved = {name[3:]: t for name, t in tensors.items() if name.startswith("lm.")}
            if sizes(saved) != sizes(state.tensors()) or tensors["recent"].shape[2] != window(lm):
                raise ValueError("it was made by one of other sizes")
            state.load_tensors(saved)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is not a saved generation of this model ({error})") from error
        return cls(settings, generators, state, tensors["given"], tensors["recent"], done, tensors.get("noise"))


def sizes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    """Shapes of a state's tensors, but for how many frames or tokens its keys, values and masks hold."""
    lengths = {"k": 2, "v": 2, "mask": 1}
    found = {}
    for name, t in tensors.items():
        varying = lengths.get(name.rpartition(".")[2])
        found[name] = [size for i, size in enumerate(t.shape) if i != varying]
    return found


def window(lm: MusicLM) -> int:
    """Steps that a frame's codes are spread over."""
    return lm.pattern.offset * (lm.config.num_codebooks - 1) + 1


@torch.no_grad()
def begin(
    lm: MusicLM,
    text: tuple[Tensor, Tensor],
    empty: tuple[Tensor, Tensor],
    settings: Sampling,
    seeds: list[int],
    prompt_codes: Tensor | None = None,
) -> Generation:
    """Read the text, and the codes to continue from, if any.

    text: embeddings [b, s, text_width] and mask [b, s]; empty: the same of the empty prompt, one row; seeds: one a row;
    prompt_codes [b, K, T0].
    """
    (embeddings, mask), b, K = text, len(text[0]), lm.config.num_codebooks
    if settings.guidance != 1:
        embeddings, mask = both_branches(text, empty)
    device = embeddings.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    if prompt_codes is None:
        prompt_codes = torch.zeros(b, K, 0, dtype=torch.long, device=device)
    recent = torch.full((b, K, window(lm)), lm.special, device=device)
    generation = Generation(settings, generators, lm.start(embeddings, mask), prompt_codes, recent)
    whole = lm.pattern.stride * prompt_codes.shape[2]  # steps at which the prompt leaves nothing to sample
    if whole:
        steps = lm.pattern.encode(prompt_codes, lm.special)[:, :, :whole]
        fed = torch.cat([recent[:, :, -1:], steps[:, :, :-1]], 2)
        for part in fed.split(1024, 2):  # bounded memory for a long prompt
            lm.extend(part.repeat(len(embeddings) // b, 1, 1), generation.state)
        generation.recent = torch.cat([recent, steps], 2)[:, :, -window(lm) :]
        generation.done = whole
    return generation


def few_threads(lm: MusicLM, rows: int) -> Callable[[], AbstractContextManager]:
    """What a step of `rows` rows is to be computed within: `one_thread`, if that is fastest for it."""
    alone = lm.device.type == "cpu" and rows * sum(p.numel() for p in lm.parameters()) <= ONE_THREAD
    return one_thread if alone else nullcontext


@torch.inference_mode()
def generate_frames(lm: MusicLM, generation: Generation) -> Iterator[Tensor]:
    """Generate without end: yields the codes [b, K] of each new frame once all its codebooks are there.

    `generation` is always whole between two frames: save it, or `copy.deepcopy` it to fork. Nothing waits for a GPU:
    codes, noise and state stay there until someone reads the codes. These are tensors of `torch.inference_mode`: clone
    them to train on them.
    """
    g = generation

    def next_codes(codes: Tensor, noise: Tensor) -> Tensor:
        return choose(lm.step(codes.repeat(g.branches, 1), g.state), g.settings, noise)

    threads = few_threads(lm, len(g.state.position))
    step: Step | None = None
    while True:
        last, noise = g.recent[:, :, -1], g.next_noise((lm.config.num_codebooks, lm.special))
        step = step or graphed(next_codes, g.state, last, noise)
        with threads():
            codes = step(last, noise)
        frame = g.put(codes, lm)
        if frame is not None:
            yield frame
