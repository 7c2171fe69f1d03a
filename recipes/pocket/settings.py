"""Which sampling settings play best: python recipes/pocket/settings.py MODEL STORE

For 48 held-out captions, the Frechet distance between log-mel frames (40 bands, and their change over 64 ms) of
what is generated and of the real clips through the same codec. A proxy for development: low means that loudness, timbre
and movement are distributed as in real music; it cannot hear melody.
"""

import sys

import torch
from transformers.audio_utils import mel_filter_bank

import ostinato
from ostinato.data import open_store
from ostinato.metrics import frechet_distance, moments
from ostinato.spectral import stft
from ostinato.store import spread


def features(audio: torch.Tensor, rate: int) -> torch.Tensor:
    """audio [b, 1, samples] -> [frames of all clips, 80]."""
    bank = torch.tensor(mel_filter_bank(1025, 40, 0, rate / 2, rate, mel_scale="slaney"), dtype=torch.float32)
    mel = (bank.T @ stft(audio, 2048).abs()).clamp(min=1e-3).log10()
    return torch.cat([mel[..., 4:], mel[..., 4:] - mel[..., :-4]], 1).transpose(1, 2).flatten(0, 1).double()


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Between Gaussians fitted to the rows of a and b."""
    one, other = moments([a.numpy()]), moments([b.numpy()])
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)


model, store = ostinato.load(sys.argv[1]), open_store(sys.argv[2]).split("validation")
rate, frames = model.codec.sample_rate, model.frame_count(5)
chosen = [i for i in spread(len(store), 48) if store.codes(i).shape[1] >= frames]
real = torch.cat([features(model.codec.decode(store.codes(i)[None, :, :frames]), rate) for i in chosen])
halves = frechet(real[: len(real) // 2], real[len(real) // 2 :])
print(f"{len(chosen)} clips; one half of the real ones against the other: {halves:.2f}")
for guidance in (1.0, 3.0):
    for temperature, top_k in ((0.8, 250), (0.9, 250), (1.0, 250), (1.0, 50), (1.2, 250)):
        settings = ostinato.Sampling(guidance, temperature, top_k)
        clips = model.generate([store.captions(i)[0] for i in chosen], 5, 0, settings)
        made = torch.cat([features(clip.audio[None], rate) for clip in clips])
        print(f"guidance {guidance} temperature {temperature} top-k {top_k}: {frechet(made, real):.2f}", flush=True)
