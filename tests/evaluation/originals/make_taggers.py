"""Writes taggers.npz beside it: what torchvision's MobileNetV3 and torchaudio's mel front end, of which EfficientAT and
sota-music-tagging-models are made, give for seeded weights and audio.

Run with torchvision==0.26.0 torchaudio==2.11.0. Given the path of mn04_as_mAP_432.pt, only its logits are
written, to the working folder.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchaudio
from seeded import audio, sample, weights
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual, MobileNetV3, _mobilenet_v3_conf
from torchvision.ops import SqueezeExcitation

SEED = 0


def mobilenet(width: float) -> MobileNetV3:
    """EfficientAT's changes: one channel in, and a sigmoid in the squeeze-and-excitation."""
    settings, last = _mobilenet_v3_conf("mobilenet_v3_large", width_mult=width)
    excitation = partial(SqueezeExcitation, scale_activation=nn.Sigmoid)
    net = MobileNetV3(settings, last, 527, block=partial(InvertedResidual, se_layer=excitation)).eval()
    net.features[0][0] = nn.Conv2d(1, net.features[0][0].out_channels, 3, 2, 1, bias=False)
    return net


def renamed(name: str) -> str:
    """EfficientAT's name of torchvision's weight."""
    for theirs, ours in (("2.fc", "2.conc_se_layers.0.fc"), ("1.fc", "1.conc_se_layers.0.fc")):
        name = name.replace(theirs, ours)
    return name.replace("classifier.3", "classifier.5").replace("classifier.0", "classifier.2")


def fill(net: MobileNetV3, made: dict) -> None:
    """Squeeze-and-excitation is a convolution of one pixel here, a matrix there."""
    own = net.state_dict()
    net.load_state_dict({name: torch.as_tensor(made[renamed(name)]).reshape(own[name].shape) for name in own})


@torch.no_grad()
def main() -> None:
    if sys.argv[1:]:
        made = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
        net = mobilenet(0.4)
        fill(net, made)
        np.savez("taggers-full.npz", logits=net(torch.from_numpy(audio(128000, 32000, SEED).reshape(1, 1, 128, -1))))
        return
    net = mobilenet(0.1)
    shapes = {}
    for name, value in net.state_dict().items():
        squeezed = ".fc" in name and name.endswith("weight")
        shapes[renamed(name)] = tuple(value.shape[:2]) if squeezed else tuple(value.shape)
    fill(net, weights(shapes, SEED))
    x = torch.from_numpy(audio(128 * 500, 32000, SEED).reshape(1, 1, 128, 500))
    logits, outputs = net(x), []
    for layer in net.features:
        x = layer(x)
        outputs.append(sample(x.numpy()))
    mel = torchaudio.transforms.MelSpectrogram(16000, 512, f_min=0.0, f_max=8000.0, n_mels=96)
    decibels = torchaudio.transforms.AmplitudeToDB()(mel(torch.from_numpy(audio(48000, 16000, SEED))))
    np.savez_compressed(
        Path(__file__).with_name("taggers.npz"),
        layers=np.stack(outputs),
        logits=logits.numpy(),
        decibels=np.stack([sample(band) for band in decibels.numpy()]),
    )


if __name__ == "__main__":
    main()
