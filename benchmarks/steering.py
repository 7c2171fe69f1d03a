"""Which way of going over to another sentence gets there soonest, and which sounds continuous?

    python benchmarks/steering.py --listener efficientat:mn04_as_mAP_432.pt [--model pocket] [--rounds 2]

A model plays one sentence for 8 s, then another for 8 s; six pairs of sentences a round. Ways of `WAYS`:

    none        no change
    cut         a fresh piece
    reread N    a new state reads the new sentence, then the last N s of the music (`x G`: and guidance is G times as
                high for 3 s; `- old`: and for 3 s guidance leads away from the old sentence, not from the empty one)
    crossfade   as reread 8, and guidance moves from the old state's text to the new one's over 2 s
    prefix      the new sentence is read into the state as it stands

"arrived" at 2, 4, 6 and 8 s after the change: where the listener's embedding of the 2 s before lies between the two
sentences, 0 as clips of the old one lie, 1 as fresh clips of the new one do (the axis between their means in units of
the spread within sentences, clips of other seeds). "surprise": nats a code of the language model's first second after
the change, under the model without text that heard what was before. "level" and "spectrum": how far the quarters of a
second on either side of the change are apart, over the median of that elsewhere before it (1: as anywhere); level in dB
of loudness, spectrum in mean dB of mel bands.
"""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor

import ostinato
from ostinato.codecs.base import sound
from ostinato.evaluation.networks.base import hear, load_listener
from ostinato.generation.guidance import guide
from ostinato.generation.sampling import begin, generate_frames, sample
from ostinato.utils.spectrogram import WINDOW, mel_filter_bank, stft

PAIRS = [
    ("A slow Bach chorale played on church organ", "A fast techno track with synthesizers and drums"),
    ("A calm solo piano piece in a minor key", "A cheerful folk dance with fiddle and accordion"),
    ("A quiet string quartet, slow and warm", "A calm solo piano piece in a minor key"),
    ("A fast techno track with synthesizers and drums", "A quiet string quartet, slow and warm"),
    ("A cheerful folk dance with fiddle and accordion", "A slow Bach chorale played on church organ"),
    ("A calm solo piano piece in a minor key", "A fast techno track with synthesizers and drums"),
]
BEFORE = AFTER = 8  # s
CROSSFADE, PUSH = 2, 3  # s
PART = 2  # s that are judged at once
FRESH = 3  # clips of each sentence that say where it lies


@dataclass(frozen=True)
class Way:
    memory: float = 0.0  # s that are read again
    push: float = 1.0  # guidance times this, for PUSH s
    against: bool = False  # guidance leads away from the old sentence, for PUSH s


WAYS = {
    "none": None,
    "cut": None,
    "prefix": None,
    "crossfade": None,
    "reread 8": Way(8),
    "reread 3": Way(3),
    "reread 1": Way(1),
    "reread 0.3": Way(0.3),
    "reread 8 x 2": Way(8, 2),
    "reread 3 x 2": Way(3, 2),
    "reread 1 x 2": Way(1, 2),
    "reread 8 - old": Way(8, against=True),
    "reread 3 - old": Way(3, against=True),
    "reread 1 - old": Way(1, against=True),
}


def lm_frames(
    model, way: str, codes: Tensor, state, old: list[str], new: list[str], seeds: list[int]
) -> Iterator[Tensor]:
    """codes [b, K, T0] played with the sentences `old`, `state` the generation at their end -> the language model's
    frames after them, [b, K] each."""
    lm = model.lm
    if way == "none":
        generation = state
    elif way == "cut":
        generation = model.begin(new, seeds)
    elif way == "prefix":
        generation = read_into(model, state, new)
    elif way == "crossfade":
        return crossfade(model, *(read_again(model, text, codes, seeds) for text in (new, old)))
    else:
        return steered(model, WAYS[way], codes, old, new, seeds)
    generation.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generate_frames(lm, generation)


def read_again(model, text: list[str], codes: Tensor, seeds: list[int]):
    return begin(model.lm, model.text(text), model.text([""]), model.sampling, seeds, codes)


def steered(model, way: Way, codes: Tensor, old: list[str], new: list[str], seeds: list[int]) -> Iterator[Tensor]:
    rate, settings = model.codec.frame_rate, model.sampling
    read = codes[:, :, -round(way.memory * rate) :]
    pushed = replace(settings, guidance=settings.guidance * way.push)
    generation, b = read_again(model, new, read, seeds), len(new)
    generation.settings = pushed
    if way.against:  # the other branch reads the old sentence
        rows, fed = read_again(model, old, read, seeds).state, generation.state
        for layer, other in zip(fed.layers, rows.layers, strict=True):
            if layer is not None:
                layer.conv, layer.ssm = (
                    torch.cat([x[:b], y[:b]]) for x, y in ((layer.conv, other.conv), (layer.ssm, other.ssm))
                )
    frames, made = generate_frames(model.lm, generation), []
    for frame in islice(frames, round(PUSH * rate)):
        made.append(frame)
        yield frame
    if way.against:  # the same music, read by a state that has the empty sentence in the other branch
        read = torch.cat([read, torch.stack(made, -1)], -1)
        generation = read_again(model, new, read, [seed + 1000 for seed in seeds])
        frames = generate_frames(model.lm, generation)
    generation.settings = settings
    yield from frames


def read_into(model, generation, new: list[str]):
    """The branch with text reads another sentence, as if it were music."""
    for i, sentence in enumerate(new):
        x, states = model.lm.condition(model.text([sentence])[0]), []
        for layer in generation.state.layers:
            states.append(None if layer is None else copy.copy(layer))
            if layer is not None:
                states[-1].conv, states[-1].ssm = layer.conv[i : i + 1].clone(), layer.ssm[i : i + 1].clone()
        model.lm.backbone(x, states, None)
        for layer, row in zip(generation.state.layers, states, strict=True):
            if layer is not None:
                layer.conv[i], layer.ssm[i] = row.conv[0], row.ssm[0]
    return generation


def crossfade(model, to, off) -> Iterator[Tensor]:
    """`generate_frames` with the text's branch moving from `off` to `to`."""
    lm, K, i, b = model.lm, model.lm.config.num_codebooks, 0, len(to.prompt_codes)
    T0, w, offset = to.prompt_codes.shape[2], to.recent.shape[2], lm.pattern.offset
    while True:
        fed = to.recent[:, :, -1].repeat(2, 1)
        x, y = lm.step(fed, to.state), lm.step(fed, off.state)
        share = min(1.0, i / (CROSSFADE * model.codec.frame_rate))
        logits = guide(torch.cat([share * x[:b] + (1 - share) * y[:b], x[b:]]), to.settings.guidance)
        codes = sample(logits[..., : lm.special], to.settings, to.generators)
        for k in range(K):
            t = lm.pattern.frame(to.done, k)
            if t is not None and t < T0:
                codes[:, k] = to.prompt_codes[:, k, t]
        to.recent = torch.cat([to.recent[:, :, 1:], codes.unsqueeze(-1)], 2)
        to.done, i = to.done + 1, i + 1
        t = lm.pattern.frame(to.done - 1, K - 1)
        if t is not None and t >= T0:
            yield torch.stack([to.recent[:, k, w - 1 - offset * (K - 1 - k)] for k in range(K)], 1)


def finish(model, frames: Iterator[Tensor], text: list[str], seeds: list[int], before: Tensor, seconds: float):
    """The language model's frames, `seconds` of them -> codes [b, K, T] and what the codec decodes of them."""
    frames = islice(frames, round(seconds * model.codec.frame_rate))
    if model.fine is None:
        codes = torch.stack(list(frames), -1)
        return codes, codes
    encode = model.fine.text or model.text
    parts = list(model.fine.refine(frames, encode(text), encode([""]), seeds, None, before))
    return tuple(torch.cat(each, -1) for each in zip(*parts, strict=True))


def nats(model, codes: Tensor) -> Tensor:
    """-log p of each code [K, T] of the language model's [1, K, T], without text."""
    lm, K, T = model.lm, codes.shape[1], codes.shape[2]
    steps = lm.pattern.encode(codes, lm.special)
    fed = F.pad(steps[:, :, :-1], (1, 0), value=lm.special)
    logits = lm(fed, *model.text([""]))[..., : lm.special].log_softmax(-1)
    scores = -logits.gather(-1, steps.clamp(max=lm.special - 1).unsqueeze(-1))[0, ..., 0]
    at = [[s for s in range(steps.shape[2]) if lm.pattern.frame(s, k) is not None][:T] for k in range(K)]
    return torch.stack([scores[k, at[k]] for k in range(K)])


def jumps(audio: Tensor, at: int, rate: int) -> tuple[float, float]:
    """audio [1, samples] -> how far the quarters of a second on either side of sample `at` are apart, in level and
    spectrum, over the median of the same elsewhere before it."""
    quarter, bank = rate // 4, mel_filter_bank(WINDOW // 2 + 1, 64, 40, rate / 2, rate, mel_scale="slaney")

    def apart(at: int) -> list[float]:
        parts = [audio[:, at - quarter : at], audio[:, at : at + quarter]]
        level = [10 * np.log10(float(part.square().mean()) + 1e-9) for part in parts]
        power = [stft(part[None], WINDOW)[0].abs().square().numpy().mean(-1) for part in parts]
        bands = [10 * np.log10(bank.T @ each + 1e-4) for each in power]
        return [abs(level[0] - level[1]), float(np.abs(bands[0] - bands[1]).mean())]

    elsewhere = np.median([apart(i) for i in range(rate, at - rate, rate // 10)], 0)
    return tuple(np.array(apart(at)) / (elsewhere + 1e-3))


def heard(listener, audio: Tensor, rate: int) -> np.ndarray:
    """audio [1, samples] -> embeddings [parts, d] of `PART` seconds each, every one repeated to ten."""
    parts = audio[0].split(PART * rate)
    return np.stack([hear(listener, part.repeat(10 // PART), rate)[0] for part in parts])


class Between:
    """Where sound lies between two sentences."""

    def __init__(self, parts: dict[str, np.ndarray]):
        self.means = {sentence: x.mean(0) for sentence, x in parts.items()}
        within = np.concatenate([x - x.mean(0) for x in parts.values()])
        self.spread = within.std(0) + 1e-3

    def arrived(self, x: np.ndarray, old: str, new: str) -> np.ndarray:
        axis = (self.means[new] - self.means[old]) / self.spread
        return ((x - self.means[old]) / self.spread) @ axis / (axis @ axis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listener", required=True, help="efficientat:FILE, or another of `ostinato evaluate`")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, listener = ostinato.load(asked.model), load_listener(asked.listener)
    rate, K = model.codec.sample_rate, model.lm.config.num_codebooks
    print(machine(), asked.model, flush=True)
    sentences = sorted({sentence for pair in PAIRS for sentence in pair})
    clips = model.generate(sentences * FRESH, BEFORE + AFTER, seed=1000)
    fresh = {}
    for i, sentence in enumerate(sentences):
        own = clips[i :: len(sentences)]
        fresh[sentence] = np.concatenate([heard(listener, clip.audio, rate) for clip in own])
    between = Between(fresh)
    old, new = zip(*PAIRS * asked.rounds, strict=True)
    seeds, b = list(range(len(old))), len(old)
    generation = model.begin(list(old), seeds)
    frames = generate_frames(model.lm, generation)
    codes, inputs = finish(model, frames, list(old), seeds, model.prompt_codes(b, None), BEFORE)
    at, second = codes.shape[-1] * model.codec.hop, round(model.codec.frame_rate)
    names = [*(f"arrived at {t} s" for t in range(PART, AFTER + 1, PART)), "surprise", "level", "spectrum"]
    print(f"\n{b} changes; mean and standard error\n")
    print("| way | " + " | ".join(names) + " |\n" + "| --- " * (len(names) + 1) + "|")
    for way in asked.ways:
        later = [100 + seed for seed in seeds]
        frames = lm_frames(model, way, codes[:, :K], copy.deepcopy(generation), list(old), list(new), later)
        sentences, before = (old if way == "none" else new), codes[..., : 0 if way == "cut" else None]
        after, more = finish(model, frames, list(sentences), later, before, AFTER)
        rows = []
        for i in seeds:
            audio = sound(model.codec, torch.cat([inputs[i : i + 1], more[i : i + 1]], -1))[0]
            parts = heard(listener, audio[:, at : at + AFTER * rate], rate)
            surprise = nats(model, torch.cat([codes, after], -1)[i : i + 1, :K])[:, codes.shape[-1] :][
                :, :second
            ].mean()
            rows.append([*between.arrived(parts, old[i], new[i]), float(surprise), *jumps(audio, at, rate)])
        mean, error = np.mean(rows, 0), np.std(rows, 0) / (b - 1) ** 0.5
        cells = (f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True))
        print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
