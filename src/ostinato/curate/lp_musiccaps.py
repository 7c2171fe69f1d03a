"""LP-MusicCaps' captioner (Doh et al., arXiv 2307.16372): a convolutional encoder of mel frames before BART.

The names of modules are those of the published weights (huggingface.co/seungheondoh/lp-music-caps), so that a state
dict of theirs fills this network whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.utils.errors import UserError

HUB = ("seungheondoh/lp-music-caps", "transfer.pth")
SAMPLE_RATE = 16000
SECONDS = 10
FFT, HOP, MELS = 1024, 160, 128
STRIDED = 5  # convolutions that halve the number of frames


def mel_bank(rate: int, fft: int, mels: int) -> Tensor:
    """Triangles on the HTK mel scale from 0 to rate / 2, of height 1: [fft / 2 + 1, mels]."""
    top = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700, dtype=torch.float64))
    points = 700 * (10 ** (torch.linspace(0, 1, mels + 2, dtype=torch.float64) * top / 2595) - 1)
    bins = torch.linspace(0, rate // 2, fft // 2 + 1, dtype=torch.float64)
    slopes = points[None] - bins[:, None]
    widths = points[1:] - points[:-1]
    up, down = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return torch.minimum(up, down).clamp(min=0).float()


def sinusoids(length: int, channels: int) -> Tensor:
    """Positions as sines, then cosines, of wavelengths up to 10000: [length, channels]."""
    half = channels // 2
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) / (half - 1) * torch.arange(half))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class MelEncoder(nn.Module):
    """Audio [b, samples] -> mel frames in dB [b, 128, 1 + samples / 160]."""

    spec_fn: Any
    mel_scale: Any

    def __init__(self) -> None:
        super().__init__()
        self.spec_fn, self.mel_scale = nn.Module(), nn.Module()
        self.spec_fn.register_buffer("window", torch.hann_window(FFT))
        self.mel_scale.register_buffer("fb", mel_bank(SAMPLE_RATE, FFT, MELS))

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, FFT, HOP, window=self.spec_fn.window, pad_mode="reflect", return_complex=True)
        # The real part alone is what its authors trained on; the power of both would be another input.
        power = spectrum.real.square()
        return 10 * (self.mel_scale.fb.T @ power).clamp(min=1e-10).log10()


class AudioEncoder(nn.Module):
    """Audio [b, 160000] -> [b, 32, width of the text model]."""

    positional_embedding: Tensor

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.mel_encoder = MelEncoder()
        self.conv1 = nn.Conv1d(MELS, width, 3, padding=1)
        self.conv_stack = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for _ in range(STRIDED))
        frames = SAMPLE_RATE * SECONDS // HOP // 2**STRIDED + 1
        self.register_buffer("positional_embedding", sinusoids(frames, text_width))

    def forward(self, audio: Tensor) -> Tensor:
        x = F.gelu(self.conv1(self.mel_encoder(audio)))
        for conv in self.conv_stack:
            x = F.gelu(conv(x))
        return x.transpose(1, 2) + self.positional_embedding


class LPMusicCaps(nn.Module):
    """The captioner with its tokenizer. bart: a folder or hub id with BART's config and tokenizer; its weights are not
    needed."""

    def __init__(self, bart: str):
        from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

        from ostinato.utils.hub import fetch

        super().__init__()
        self.tokenizer = fetch(AutoTokenizer.from_pretrained, bart)
        config: Any = fetch(BartConfig.from_pretrained, bart)
        self.bart = BartForConditionalGeneration(config)
        self.audio_encoder = AudioEncoder(config.d_model, config.d_model)

    @torch.inference_mode()
    def captions(self, audio: Tensor, beams: int, max_tokens: int) -> list[str]:
        """Audio [b, 160000] at 16 kHz -> b captions, by beam search."""
        heard = self.bart.model.encoder(inputs_embeds=self.audio_encoder(audio), return_dict=True)
        start: Any = self.bart.config.decoder_start_token_id
        tokens = self.bart.generate(
            encoder_outputs=heard,
            decoder_input_ids=torch.full((len(audio), 1), start, device=audio.device),
            num_beams=beams,
            max_length=max_tokens,
            min_length=2,
            do_sample=False,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def load_lp_musiccaps(weights: str, bart: str, device: str) -> LPMusicCaps:
    """weights: a file, or "" for the authors' on the hub. Raises: UserError where they cannot be had, or are others."""
    path = Path(weights) if weights else _fetch()
    if not path.is_file():
        raise UserError(f"no weights of LP-MusicCaps at {path}: {HUB[1]} of huggingface.co/{HUB[0]} is the file")
    model = LPMusicCaps(bart)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(_known(held.get("state_dict", held), model))
    except Exception as error:  # pickle, zip, keys, shapes
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not hold LP-MusicCaps' weights for {bart} ({told}): fetch it again") from error
    return model.to(device).eval()


def _known(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights without what older transformers saved beside them, and with the buffers that those may lack."""
    own = model.state_dict()
    named = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    buffers = {name: own[name] for name, _ in model.named_buffers() if name in own and name not in named}
    return {**{name: tensor for name, tensor in named.items() if not name.endswith("position_ids")}, **buffers}


def _fetch() -> Path:
    from huggingface_hub import hf_hub_download

    from ostinato.utils.hub import first_line

    try:
        return Path(hf_hub_download(*HUB))
    except Exception as error:
        raise UserError(
            f"the weights of LP-MusicCaps are not here and could not be had from the hub ({first_line(error)}): fetch "
            f"{HUB[1]} of huggingface.co/{HUB[0]} elsewhere, and set caption.model=lp-musiccaps:FILE"
        ) from error
