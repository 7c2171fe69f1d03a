"""Two small taggers to develop with where no network is: stand-ins for PaSST and the published metrics' embeddings.

EfficientAT (arXiv 2211.04772) is MobileNetV3 (arXiv 1905.02244, table 1) on PaSST's front end, distilled from PaSST.
The fully convolutional tagger (arXiv 1606.00298, as trained in arXiv 2006.00751) names MTG-Jamendo's 50 top tags.
Names of modules are those of the published weights.
"""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ostinato.evaluation.networks.base import cut, each_window, fill, read_weights
from ostinato.evaluation.networks.passt import LogMel, ten_seconds
from ostinato.utils.errors import UserError
from ostinato.utils.hub import Frozen

# MobileNetV3-Large: kernel, expanded channels, channels out, squeeze-and-excitation, hard-swish, stride.
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
LABELS_FILE = "class_labels_indices.csv"  # AudioSet's, with a column display_name

_GENRES = (
    "alternative ambient atmospheric chillout classical dance downtempo easylistening electronic experimental folk "
    "funk hiphop house indie instrumentalpop jazz lounge metal newage orchestral pop popfolk poprock reggae rock "
    "soundtrack techno trance triphop world"
)
_INSTRUMENTS = (
    "acousticguitar bass computer drummachine drums electricguitar electricpiano guitar keyboard piano strings "
    "synthesizer violin voice"
)
_MOODS = "emotional energetic film happy relaxing"
# Alphabetically, as the outputs are: the network was trained on what sklearn's LabelBinarizer made of the tags.
JAMENDO_TAGS = tuple(
    f"{kind}---{tag}"
    for kind, tags in (("genre", _GENRES), ("instrument", _INSTRUMENTS), ("mood/theme", _MOODS))
    for tag in tags.split()
)


def by_eight(channels: float) -> int:
    """The nearest multiple of 8, never over a tenth less (MobileNet's rounding of scaled widths)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, then: nn.Module | None = None
) -> nn.Sequential:
    """Convolution without bias, norm, and `then`."""
    layers = [
        nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([then] if then else []))


class Excitation(nn.Module):
    """Squeeze-and-excitation over channels (arXiv 1709.01507)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = by_eight(channels // 4)
        # The weights have a list of one: the authors also tried excitation over frequency and time.
        self.conc_se_layers = nn.ModuleList([nn.Module()])
        self.conc_se_layers[0].fc1 = nn.Linear(channels, squeezed)
        self.conc_se_layers[0].fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        fc: Any = self.conc_se_layers[0]
        return x * fc.fc2(fc.fc1(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


class Inverted(nn.Module):
    """An inverted residual block: expand, convolve each channel, project."""

    def __init__(self, c_in: int, kernel: int, wide: int, c_out: int, excite: bool, swish: bool, stride: int):
        super().__init__()
        act = nn.Hardswish if swish else nn.ReLU
        self.block = nn.Sequential(
            *([conv(c_in, wide, 1, then=act())] if wide != c_in else []),
            conv(wide, wide, kernel, stride, groups=wide, then=act()),
            *([Excitation(wide)] if excite else []),
            conv(wide, c_out, 1),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNet(nn.Module):
    """Mel frames [b, 128, t] -> features [b, 960 * width]; its `classifier` gives logits [b, 527]."""

    def __init__(self, width: float):
        super().__init__()
        c_in = by_eight(16 * width)
        layers: list[nn.Module] = [conv(1, c_in, 3, 2, then=nn.Hardswish())]
        for kernel, wide, c_out, excite, swish, stride in BLOCKS:
            wide, c_out = by_eight(wide * width), by_eight(c_out * width)
            layers.append(Inverted(c_in, kernel, wide, c_out, excite, swish, stride))
            c_in = c_out
        self.features = nn.Sequential(*layers, conv(c_in, 6 * c_in, 1, then=nn.Hardswish()))
        last = by_eight(1280 * width)
        # Numbered as in the weights: pooling and flattening come first, dropout after the activation.
        head = {"2": nn.Linear(6 * c_in, last), "3": nn.Hardswish(), "5": nn.Linear(last, 527)}
        self.classifier = nn.Sequential()
        for number, layer in head.items():
            self.classifier.add_module(number, layer)

    def forward(self, mel: Tensor) -> Tensor:
        return self.features(mel[:, None]).mean((2, 3))


class EfficientAT(Frozen):
    """A stand-in for PaSST, see `base.Tagger`: windows and front end are PaSST's.

    path: a published mnXX_as weight file of any width (mn04_as_mAP_432.pt); the names of classes are read from
    class_labels_indices.csv beside it, where it is. Raises UserError for other weights, or another number of names.
    """

    name, sample_rate, window, proxy = "efficientat", 32000, 10.0, True

    def __init__(self, path: str | Path):
        super().__init__()
        weights = read_weights(path)
        features = weights.get("features.16.0.weight")
        if features is None:
            raise UserError(f"{path} holds no weights of an EfficientAT MobileNet (mn04_as_mAP_432.pt is one)")
        self.mel, self.net = LogMel(), MobileNet(features.shape[0] / 960)
        fill(self.net, weights, path, self.name)
        self.labels = read_labels(Path(path).with_name(LABELS_FILE))
        self.freeze()

    def embed(self, audio: Tensor) -> Tensor:
        """[..., samples] -> features [..., windows, d]; d = 384 for mn04."""
        return each_window(lambda part: self.net(self.mel(part)), ten_seconds(audio, self.sample_rate))

    def tags(self, audio: Tensor) -> Tensor:
        """[..., samples] -> logits [..., windows, 527]."""
        return each_window(
            lambda part: self.net.classifier(self.net(self.mel(part))), ten_seconds(audio, self.sample_rate)
        )


def read_labels(path: Path) -> tuple[str, ...]:
    """AudioSet's class names of its class_labels_indices.csv, () where there is no such file."""
    if not path.is_file():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        names = tuple(row.get("display_name", "") for row in csv.DictReader(file))
    if len(names) != 527:
        raise UserError(f"{path} names {len(names)} classes, AudioSet has 527: copy the file again")
    return names


class MelDecibels(nn.Module):
    """[b, samples] at 16 kHz -> mel power in dB [b, 96, 1 + samples / 256]; window and bank are in the weights."""

    spectrogram: Any
    mel_scale: Any

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
        self.spectrogram.register_buffer("window", torch.zeros(512))
        self.mel_scale.register_buffer("fb", torch.zeros(257, 96))

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, 512, 256, window=self.spectrogram.window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * (self.mel_scale.fb.T @ power).clamp(min=1e-10).log10()


class Layer(nn.Module):
    """Convolution, norm, ReLU and max pooling."""

    def __init__(self, c_in: int, c_out: int, pool: tuple[int, int]):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out)
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.bn(self.conv(x)).relu())


class FCN(nn.Module):
    """29 s [b, 464000] -> features [b, 64]; `dense` makes logits [b, 50] of them."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.spec_bn = MelDecibels(), nn.BatchNorm2d(1)
        self.layer1, self.layer2 = Layer(1, 64, (2, 4)), Layer(64, 128, (2, 4))
        self.layer3, self.layer4 = Layer(128, 128, (2, 4)), Layer(128, 128, (3, 5))
        self.layer5 = Layer(128, 64, (4, 4))
        self.dense = nn.Linear(64, len(JAMENDO_TAGS))

    def forward(self, audio: Tensor) -> Tensor:
        x = self.spec_bn(self.spec(audio)[:, None])
        return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1)


class JamendoFCN(Frozen):
    """A stand-in that hears music only, see `base.Tagger`. path: sota-music-tagging-models' FCN for MTG-Jamendo.

    It takes 29 s: a shorter clip is repeated until it is as long, what a longer one has past its last whole window is
    left out. Raises UserError for other weights.
    """

    name, sample_rate, window, proxy = "jamendo", 16000, 29.0, True
    labels = JAMENDO_TAGS

    def __init__(self, path: str | Path):
        super().__init__()
        self.net = FCN()
        fill(self.net, read_weights(path), path, self.name)
        self.freeze()

    def windows(self, audio: Tensor) -> Tensor:
        size, samples = round(self.window * self.sample_rate), audio.shape[-1]
        audio = audio.tile(-(-size // samples))[..., : max(size, samples)]
        return cut(audio, size, size, max(1, samples // size))

    def embed(self, audio: Tensor) -> Tensor:
        """[..., samples] -> features [..., windows, 64]."""
        return each_window(self.net, self.windows(audio))

    def tags(self, audio: Tensor) -> Tensor:
        """[..., samples] -> logits [..., windows, 50]."""
        return each_window(lambda part: self.net.dense(self.net(part)), self.windows(audio))
