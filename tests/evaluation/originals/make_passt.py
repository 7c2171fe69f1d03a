"""Writes passt.npz beside it: what hear21passt makes of seeded weights and audio, layer by layer.

Run with hear21passt==0.0.26 timm==1.0.31 torchaudio==2.11.0. The twelve blocks are alike: two of them keep the test
short; names and shapes of all the weights are in the fixture too. With `--full` all twelve run, and nothing is written.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from hear21passt.models.passt import PaSST
from hear21passt.models.preprocess import AugmentMelSTFT
from seeded import audio, sample, weights

SEED = 0


def network(depth: int) -> PaSST:
    """hear21passt's `passt_s_swa_p16_128_ap476` without its weights."""
    return PaSST(
        patch_size=16, stride=10, img_size=(128, 998), embed_dim=768, depth=depth, num_heads=12, distilled=True
    )


def shapes(net: torch.nn.Module) -> dict:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


@torch.no_grad()
def main() -> None:
    depth = 12 if "--full" in sys.argv else 2
    front = AugmentMelSTFT(fmin_aug_range=10, fmax_aug_range=2000).eval()
    net = network(depth).eval()
    made = weights(shapes(net), SEED)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in made.items()})

    clip = torch.from_numpy(audio(320000, 32000, SEED))
    mel = front(clip[None])
    heard = {}

    def hear(name: str):
        def hook(layer, inputs, output) -> None:  # None: what a hook returns would be the layer's output
            heard[name] = output

        return hook

    for name, layer in net.named_modules():
        layer.register_forward_hook(hear(name))
    logits, features = net(mel[:, None])
    names = [name for name, out in heard.items() if torch.is_tensor(out) and name]
    layers = np.stack([sample(heard[name].numpy()) for name in names])
    short, _ = net(front(clip[None, :64000])[:, None])
    if depth == 2:
        np.savez_compressed(
            Path(__file__).with_name("passt.npz"),
            mel=sample(mel.numpy()),
            names=names,
            layers=layers,
            logits=logits.numpy(),
            features=features.numpy(),
            short=short.numpy(),
            shapes=json.dumps(shapes(network(12))),
        )
    np.savez(f"passt-full-{depth}.npz", mel=mel.numpy(), logits=logits.numpy(), features=features.numpy(), short=short)


if __name__ == "__main__":
    main()
