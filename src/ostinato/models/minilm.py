"""The network of all-MiniLM-L6-v2, a BERT of six layers (arXiv 1810.04805), on PyTorch's own encoder.

transformers has it, too; its modelling code takes longer to import than ten seconds of music take to generate.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ostinato.utils.files import Unfilled

PARTS = {  # of a layer: PyTorch's name and the file's
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class BertEncoder(nn.Module):
    """ids [b, s] and mask [b, s], true at tokens -> [b, s, width]. Dropout is left out: it is never trained here."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, hidden: int, longest: int):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.kind = nn.Parameter(torch.zeros(width))  # of the first of two sentences; here is but one
        self.norm = nn.LayerNorm(width, eps=1e-12)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, 0.0, "gelu", 1e-12, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.kind + self.places.weight[: ids.shape[1]]
        return self.layers(self.norm(x), src_key_padding_mask=~mask)


def read_bert(path: Path, heads: int) -> BertEncoder:
    """The encoder of a BERT's model.safetensors, its sizes those of the weights. Raises what safetensors raises, and
    KeyError where a weight is missing."""
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    words, places = (weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
    layers = sum(name.endswith("intermediate.dense.weight") for name in weights)
    hidden = len(weights["encoder.layer.0.intermediate.dense.bias"])
    with torch.device("meta"), Unfilled():  # PyTorch makes its layers by copying one, weights and all
        model = BertEncoder(len(words), words.shape[1], layers, heads, hidden, len(places))
    own = {
        "words.weight": words,
        "places.weight": places,
        "kind": weights["embeddings.token_type_embeddings.weight"][0],
    }
    for what in ("weight", "bias"):
        own[f"norm.{what}"] = weights[f"embeddings.LayerNorm.{what}"]
        for i in range(layers):
            here, there = f"layers.layers.{i}.", f"encoder.layer.{i}."
            several = [weights[f"{there}attention.self.{name}.{what}"] for name in ("query", "key", "value")]
            own[f"{here}self_attn.in_proj_{what}"] = torch.cat(several)
            own |= {f"{here}{name}.{what}": weights[f"{there}{theirs}.{what}"] for name, theirs in PARTS.items()}
    model.load_state_dict(own, assign=True)
    return model
