"""Which sampling settings play best: python recipes/pocket/5_settings.py MODEL STORE [LISTENER]

For 64 captions of the validation split and 10 s each, the Frechet distance between what is generated and the real clips
through the same codec, of log-mel frames (40 bands, and their change over 64 ms), and of the embeddings of LISTENER
(`ostinato evaluate --help` names them) where one is given. Proxies for development: low means that loudness, timbre and
movement are distributed as in real music; they hardly hear melody. Beside them the share of 50 ms windows under -60 dB,
which a language model that has lost its way fills with silence, and the clips with a fault (`ostinato evaluate` counts
the same).
"""

import argparse
import functools
import sys
from dataclasses import astuple

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

import ostinato
from ostinato.data.clips import silent_windows
from ostinato.data.prepare import open_store
from ostinato.data.store import spread
from ostinato.evaluation.degenerate import SILENCE_DB, faults
from ostinato.evaluation.metrics import Moments, frechet_distance, moments
from ostinato.evaluation.networks.base import Listener, hear, load_listener
from ostinato.utils.errors import UserError
from ostinato.utils.stft import stft

TRIED = [
    (5, 1.1, 250),
    (5, 1.2, 250),
    (5, 1.0, 250),
    (3, 1.1, 250),
    (3, 1.2, 250),
    (4, 1.2, 250),
    (4, 1.2, 0),
    (5, 1.3, 250),
    (7, 1.2, 250),
    (1, 1.1, 250),
]
SECONDS, CLIPS = 10, 64


def mel_frames(audio: torch.Tensor, rate: int) -> np.ndarray:
    """audio [1, samples] -> [frames, 80]."""
    bank = torch.tensor(mel_filter_bank(1025, 40, 0, rate / 2, rate, mel_scale="slaney"), dtype=torch.float32)
    mel = (bank.T @ stft(audio[None], 2048)[0].abs()).clamp(min=1e-3).log10()
    return torch.cat([mel[:, 4:], mel[:, 4:] - mel[:, :-4]]).T.numpy()


def described(clips: list[torch.Tensor], rate: int, listener: Listener | None) -> list[Moments]:
    """Moments of log-mel frames and, with a listener, of its embeddings."""
    features = [mel_frames, functools.partial(hear, listener)] if listener else [mel_frames]
    return [moments([feature(clip, rate) for clip in clips]) for feature in features]


def distances(some: list[Moments], others: list[Moments]) -> str:
    pairs = zip(some, others, strict=True)
    return " ".join(f"{frechet_distance(a.mean, a.covariance, b.mean, b.covariance):.2f}" for a, b in pairs)


def faults_of(clips: list[torch.Tensor], rate: int) -> str:
    quiet = torch.cat([silent_windows(clip, rate, SILENCE_DB) for clip in clips])
    found = [astuple(faults(clip[0].numpy(), rate)) for clip in clips]
    return f"silent {100 * quiet.float().mean():.1f} %, faults {sum(map(any, found))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("store")
    parser.add_argument("listener", nargs="?")
    args = parser.parse_args()
    model, store = ostinato.load(args.model), open_store(args.store).split("validation")
    listener = load_listener(args.listener) if args.listener else None
    rate, frames = model.codec.sample_rate, model.frame_count(SECONDS)
    chosen = [i for i in spread(len(store), CLIPS) if store.codes(i).shape[1] >= frames]
    real = [model.codec.decode(store.codes(i)[None, :, :frames])[0] for i in chosen]
    halves = distances(*(described(half, rate, listener) for half in (real[::2], real[1::2])))
    halves += f"; {faults_of(real, rate)}"
    print(f"{len(real)} clips; one half of the real ones against the other: {halves}", flush=True)
    aim = described(real, rate, listener)
    prompts = [store.captions(i)[0] for i in chosen]
    parts = [prompts[i : i + 16] for i in range(0, len(prompts), 16)]
    for guidance, temperature, top_k in TRIED:
        settings = ostinato.Sampling(guidance, temperature, top_k)
        clips = [clip.audio for part in parts for clip in model.generate(part, SECONDS, 0, settings)]
        found = f"{distances(described(clips, rate, listener), aim)}; {faults_of(clips, rate)}"
        print(f"guidance {guidance} temperature {temperature} top-k {top_k}: {found}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"5_settings.py: {error}", file=sys.stderr)
        sys.exit(2)
