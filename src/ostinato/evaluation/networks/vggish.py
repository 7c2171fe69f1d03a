"""VGGish (arXiv 1609.09430), the network of the Frechet audio distance (arXiv 1812.08466), on torchvggish's weights.

The embedding is the last layer before its activation, neither whitened nor quantised, as in TensorFlow's VGGish today
and in the package frechet_audio_distance by default. Published FADs differ in just this: compare what was made alike.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ostinato.evaluation.networks.base import cut, each_window, fill, read_weights
from ostinato.evaluation.networks.passt import kaldi_mel_banks
from ostinato.utils.hub import Frozen

FRAMES, FRAME, HOP = 96, 400, 160  # frames of a window, samples of a frame, samples from one to the next


class LogMel(nn.Module):
    """One window [b, 15600] at 16 kHz -> [b, 96, 64], the log of HTK mel magnitudes plus 0.01."""

    bank: Tensor
    hann: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", kaldi_mel_banks(64, 512, 16000, 125.0, 7500.0), persistent=False)
        self.register_buffer("hann", torch.hann_window(FRAME), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        magnitude = torch.fft.rfft(audio.unfold(-1, FRAME, HOP) * self.hann, 512).abs()
        return (magnitude @ self.bank.T + 0.01).log()


def convolutions() -> nn.Sequential:
    """VGG's stack without norms; "M" is pooling."""
    layers: list[nn.Module] = []
    c_in = 1
    for c in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M"):
        if isinstance(c, int):
            layers += [nn.Conv2d(c_in, c, 3, padding=1), nn.ReLU()]
            c_in = c
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class Network(nn.Module):
    """Log-mel windows [b, 96, 64] -> [b, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = convolutions()
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * 512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, mel: Tensor) -> Tensor:
        # Flattened with channels last, as in TensorFlow.
        return self.embeddings(self.features(mel[:, None]).permute(0, 2, 3, 1).flatten(1))


class VGGish(Frozen):
    """See `base.Listener`. path: vggish-10086976.pth. Raises UserError for other weights."""

    name, sample_rate, window, proxy = "vggish", 16000, 0.96, False

    def __init__(self, path: str | Path):
        super().__init__()
        self.mel = LogMel()
        with torch.device("meta"):
            self.net = Network()
        fill(self.net, read_weights(path), path, self.name)
        self.freeze()

    def embed(self, audio: Tensor) -> Tensor:
        """[..., samples] -> [..., windows, 128], side by side; what is left over at the end is not heard. A clip under
        the 0.975 s that one window takes is padded with zeros (the original fails there)."""
        size, hop = (FRAMES - 1) * HOP + FRAME, FRAMES * HOP
        count = 1 + max(0, audio.shape[-1] - size) // hop
        return each_window(lambda part: self.net(self.mel(part)), cut(audio, size, hop, count))
