"""Which way of going over to another sentence sounds continuous, and which follows the new sentence?

python benchmarks/steering.py [--pairs 6]: the shipped one-stage model plays one sentence for 8 s, then another for 6 s.
reread N: a new state reads the new sentence, then the last N s of the music; crossfade: the same, and guidance moves
from the old state to it over 2 s; prefix: the new sentence is read into the state as it stands; cut: a fresh piece;
none: no change.
"surprise": nats a code of the first second after the change, under the model without text that heard what was before
(lower: more continuous). "jump": distance of mean log-mel levels (dB) of the half seconds before and after. "follows":
nats a frame by which seconds 2 to 6 are likelier with the new sentence than with the old one (higher: more followed).
"""

import argparse
import copy

import numpy as np
import torch
import torch.nn.functional as F

import ostinato
from ostinato.codecs.base import sound
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
BEFORE, AFTER, FADE = 400, 300, 100  # frames
WAYS = ("none", "reread 8", "reread 3", "reread 1", "crossfade", "prefix", "cut")


@torch.no_grad()
def go_over(model, way, codes, state, old, new, seed):
    """codes [1, K, T0] played with the sentence `old`, its generation `state` -> AFTER more frames [1, K, AFTER]."""
    lm = model.lm
    if way == "none":
        generation = state
    elif way == "cut":
        generation = model.begin([new], seed)
    elif way == "prefix":
        generation = state
        x = lm.condition(model.text([new])[0])
        for layer in generation.state.layers:
            if layer is not None:
                layer.kept = layer.conv, layer.ssm
                layer.conv, layer.ssm = layer.conv[:1], layer.ssm[:1]
        lm.backbone(x, generation.state.layers, None)
        for layer in generation.state.layers:
            if layer is not None:
                layer.conv = torch.cat([layer.conv, layer.kept[0][1:]])
                layer.ssm = torch.cat([layer.ssm, layer.kept[1][1:]])
                del layer.kept
    else:
        far = 1e3 if way == "crossfade" else int(way.split()[1])
        generation = model.begin([new], seed, None, codes[..., -round(min(far * 50, BEFORE)) :])
    generation.generators = [torch.Generator().manual_seed(seed)]
    if way != "crossfade":
        frames = generate_frames(lm, generation)
        return torch.stack([next(frames) for _ in range(AFTER)], -1)
    return crossfade(model, generation, model.begin([old], seed, None, codes))


@torch.no_grad()
def crossfade(model, to, off):
    """`generate_frames` with the text's branch moving from `off` to `to`."""
    lm, found, K = model.lm, [], model.lm.config.num_codebooks
    T0, w = to.prompt_codes.shape[2], to.recent.shape[2]
    for i in range(AFTER + w - 1):
        fed = to.recent[:, :, -1].repeat(2, 1)
        a, b = lm.step(fed, to.state), lm.step(fed, off.state)
        share = min(1.0, i / FADE)
        logits = guide(torch.cat([share * a[:1] + (1 - share) * b[:1], a[1:]]), to.settings.guidance)
        codes = sample(logits[..., : lm.special], to.settings, to.generators)
        for k in range(K):
            t = lm.pattern.frame(to.done, k)
            if t is not None and t < T0:
                codes[:, k] = to.prompt_codes[:, k, t]
        to.recent = torch.cat([to.recent[:, :, 1:], codes.unsqueeze(-1)], 2)
        to.done += 1
        t = lm.pattern.frame(to.done - 1, K - 1)
        if t is not None and t >= T0:
            found.append(torch.stack([to.recent[:, k, w - 1 - (K - 1 - k)] for k in range(K)], 1))
    return torch.stack(found, -1)[..., :AFTER]


@torch.no_grad()
def nats(model, codes, prompt):
    """-log p of each code [K, T] of [1, K, T], with this sentence."""
    lm, K, T = model.lm, codes.shape[1], codes.shape[2]
    steps = lm.pattern.encode(codes, lm.special)
    fed = F.pad(steps[:, :, :-1], (1, 0), value=lm.special)
    logits = lm(fed, *model.text([prompt]))[..., : lm.special].log_softmax(-1)
    scores = -logits.gather(-1, steps.clamp(max=lm.special - 1).unsqueeze(-1))[0, ..., 0]
    return torch.stack([scores[k, k : k + T] for k in range(K)])


def level(audio, rate):
    bank = mel_filter_bank(WINDOW // 2 + 1, 64, 40, rate / 2, rate, mel_scale="slaney")
    power = stft(audio[None], WINDOW)[0].abs().square().numpy().mean(-1)
    return 10 * np.log10(bank.T @ power + 1e-6)


def measure(model, codes, joined, old, new):
    audio, at, rate = sound(model.codec, joined)[0], BEFORE * model.codec.hop, model.codec.sample_rate
    half = rate // 2
    before, after = level(audio[:, at - half : at], rate), level(audio[:, at : at + half], rate)
    surprise = nats(model, joined, "")[:, BEFORE : BEFORE + 50].mean()
    late = joined[..., BEFORE + 100 :]
    follows = (nats(model, late, old) - nats(model, late, new)).sum(0).mean()
    return float(surprise), float(np.abs(before - after).mean()), float(follows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=len(PAIRS))
    torch.set_num_threads(1)
    model = ostinato.load("pocket-delay")
    found = {way: [] for way in WAYS}
    for seed, (old, new) in enumerate(PAIRS[: parser.parse_args().pairs]):
        generation = begin(model.lm, model.text([old]), model.text([""]), model.sampling, [seed])
        frames = generate_frames(model.lm, generation)
        codes = torch.stack([next(frames) for _ in range(BEFORE)], -1)
        for way in WAYS:
            after = go_over(model, way, codes, copy.deepcopy(generation), old, new, 100 + seed)
            found[way].append(measure(model, codes, torch.cat([codes, after], -1), old, new))
        print(f"{seed + 1} pairs; mean and standard error", flush=True)
        for way, rows in found.items():
            mean, error = np.mean(rows, 0), np.std(rows, 0) / len(rows) ** 0.5
            pairs = zip(("surprise", "jump", "follows"), mean, error, strict=True)
            print(f"  {way:10}", *(f"{name} {m:.2f} ± {e:.2f} " for name, m, e in pairs), flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
