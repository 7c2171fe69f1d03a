"""Writes vggish.npz beside it: what torchvggish makes of seeded weights and audio, layer by layer.

Run with torchvggish==0.2 and any PyTorch.
"""

from pathlib import Path

import numpy as np
import torch
from seeded import audio, sample, weights
from torchvggish.torchvggish import _vgg
from torchvggish.vggish_input import waveform_to_examples

SEED = 0


@torch.no_grad()
def main() -> None:
    network = _vgg(postprocess=False).eval()
    made = weights({name: tuple(value.shape) for name, value in network.state_dict().items()}, SEED)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in made.items()})
    network.embeddings = network.embeddings[:-1]  # as frechet_audio_distance does by default

    x = mel = waveform_to_examples(audio(40000, 16000, SEED), 16000).detach()
    outputs = []
    for layer in network.features:
        x = layer(x)
        outputs.append(sample(x.numpy()))
    np.savez_compressed(
        Path(__file__).with_name("vggish.npz"),
        mel=np.stack([sample(window) for window in mel.numpy()]),
        layers=np.stack(outputs),
        embedding=network(mel).numpy(),
    )
    np.savez("vggish-full.npz", mel=mel.numpy(), features=x.numpy())


if __name__ == "__main__":
    main()
