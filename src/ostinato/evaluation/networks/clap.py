"""LAION's CLAP (arXiv 2211.06687): clips and sentences in one space, on transformers' `ClapModel`.

The weights are LAION's own .pt files without fusion (`music_audioset_epoch_15_esc_90.14.pt`): their names are turned
into transformers', their sizes are read off them, and the mel bank is the one they hold. As laion_clap does, audio is
rounded to 16 bits first, and a clip under 10 s repeats as often as it fits before zeros follow.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, ClapConfig, ClapModel

from ostinato.evaluation.networks.base import cut, each_window, fill, read_weights
from ostinato.utils.errors import UserError
from ostinato.utils.hub import Frozen, fetch

TOKENIZER = "FacebookAI/roberta-base"
MAX_TOKENS = 77
LEFT = 1.0  # s

# laion_clap's names -> transformers', applied in this order; of what is left out, nothing enters an embedding.
RENAMED = (
    (r"^audio_branch\.bn0\.", "audio_model.audio_encoder.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"^text_branch\.", "text_model."),
    (r"^(audio|text)_projection\.0\.", r"\1_projection.linear1."),
    (r"^(audio|text)_projection\.2\.", r"\1_projection.linear2."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"(blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"(blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
LEFT_OUT = re.compile(
    r"\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|^(audio|text)_transform\."
    r"|\.(attn_mask|relative_position_index|position_ids|token_type_ids)$"
)


def converted(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """laion_clap's state dict under transformers' names."""
    made = {}
    for name, value in weights.items():
        if LEFT_OUT.search(name):
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                made[name.replace("qkv", part)] = third
        else:
            made[name] = value
    return made


def config_of(weights: dict[str, Tensor]) -> ClapConfig:
    """The sizes of HTSAT and RoBERTa that laion_clap's weights have. Raises KeyError where there is no such network."""

    def count(pattern: str) -> int:
        return len({match[0] for name in weights if (match := re.match(pattern, name))})

    stages = range(count(r"audio_branch\.layers\.\d+\."))
    table = "audio_branch.layers.{}.blocks.0.attn.relative_position_bias_table"
    words, width = weights["text_branch.embeddings.word_embeddings.weight"].shape
    return ClapConfig(
        audio_config={
            "patch_embeds_hidden_size": len(weights["audio_branch.patch_embed.proj.weight"]),
            "hidden_size": len(weights["audio_branch.norm.weight"]),
            "depths": [count(rf"audio_branch\.layers\.{i}\.blocks\.\d+\.") for i in stages],
            "num_attention_heads": [weights[table.format(i)].shape[1] for i in stages],
        },
        text_config={
            "vocab_size": words,
            "hidden_size": width,
            "num_hidden_layers": count(r"text_branch\.encoder\.layer\.\d+\."),
            "num_attention_heads": width // 64,
            "intermediate_size": len(weights["text_branch.encoder.layer.0.intermediate.dense.weight"]),
            "layer_norm_eps": 1e-5,  # RoBERTa's; transformers' CLAP has another
        },
    )


class LogMel(nn.Module):
    """10 s at 48 kHz [b, 480000] -> decibels [b, 1, 1001, 64]. bank: [513, 64], as the weights hold it."""

    bank: Tensor
    hann: Tensor

    def __init__(self, bank: Tensor):
        super().__init__()
        self.register_buffer("bank", bank.float(), persistent=False)
        self.register_buffer("hann", torch.hann_window(1024), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, 1024, 480, window=self.hann, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * (power.mT @ self.bank).clamp(min=1e-10).log10()[:, None]


class CLAP(Frozen):
    """See `base.TextListener`. path: a .pt of laion_clap without fusion; tokenizer: RoBERTa's, a folder or hub id,
    loaded with the first sentence. Raises UserError for other weights."""

    name, sample_rate, window, proxy = "clap", 48000, 10.0, False

    def __init__(self, path: str | Path, tokenizer: str | Path = TOKENIZER):
        super().__init__()
        weights = laion_weights(path)
        try:
            config, bank = config_of(weights), weights["audio_branch.logmel_extractor.melW"]
        except KeyError as error:
            raise UserError(f"{path} holds no weights of laion_clap's CLAP (no {error.args[0]}): check it") from error
        self.mel = LogMel(bank)
        self.model = ClapModel(config)
        # Positions and the like are constants: transformers' own stay, whether or not it counts them among the weights.
        constants = {name: value for name, value in self.model.state_dict().items() if LEFT_OUT.search(name)}
        fill(self.model, constants | converted(weights), path, self.name)
        self.tokenizer_source = tokenizer
        self.tokenizer: Any = None
        self.freeze()

    def encode(self, audio: Tensor) -> Tensor:
        """[b, 480000] -> [b, 512] of unit length."""
        rounded = (audio.clamp(-1, 1) * 32767).to(torch.int16) / 32767
        heard = self.model.audio_model(input_features=self.mel(rounded)).pooler_output
        return F.normalize(self.model.audio_projection(heard), dim=-1)

    def embed(self, audio: Tensor) -> Tensor:
        """[..., samples] -> [..., windows, 512] of unit length, side by side; where `LEFT` s or more are left over, a
        last one ends with the clip. (laion_clap hears 10 s drawn at random from a longer clip.)"""
        size, samples = round(self.window * self.sample_rate), audio.shape[-1]
        if samples < size:
            audio = audio.repeat(*[1] * (audio.ndim - 1), size // samples)
        windows = cut(audio, size, size, max(1, samples // size))
        if samples > size and samples % size >= LEFT * self.sample_rate:
            windows = torch.cat([windows, audio[..., None, -size:]], -2)
        return each_window(self.encode, windows)

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        """n texts -> [n, 512] of unit length; what is past 77 tokens of a text is not read, as in laion_clap."""
        if self.tokenizer is None:
            self.tokenizer = fetch(AutoTokenizer.from_pretrained, self.tokenizer_source)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        device = self.model.text_projection.linear1.weight.device
        return self.encode_tokens(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids and mask [n, s] -> [n, 512] of unit length."""
        read = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.model.text_projection(read), dim=-1)


def laion_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of one of LAION's checkpoints, names as laion_clap has them. Errors: `read_weights`."""
    # The files hold metrics as numpy's numbers, under the names of numpy 1.
    scalar: Any = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    with torch.serialization.safe_globals(allowed):
        saved = read_weights(path)
    return {name.removeprefix("module."): value for name, value in saved.get("state_dict", saved).items()}
