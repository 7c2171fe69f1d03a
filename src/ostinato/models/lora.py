"""Low-rank adapters (LoRA, arXiv 2106.09685) on a language model's linear layers, through peft."""

from torch import Tensor, nn

from ostinato.utils.errors import UserError

FIRST = ".lora_A.default.weight"  # the end of its name in peft
SCALE = 2  # alpha over rank


def adapt(lm: nn.Module, rank: int) -> None:
    """Freeze `lm` and put adapters of `rank` (alpha twice it) on every linear layer of its blocks, in place.

    The second factor is zero, so the output is at first what it was. Raises UserError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("lora needs peft: run pip install 'ostinato[lora]', or train without it") from error
    names = [name for name, m in lm.named_modules() if isinstance(m, nn.Linear) and name.startswith("layers.")]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=names), lm)


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an adapted model with every adapter added to its weight, named as without adapters."""
    out = {name.replace(".base_layer.", "."): t for name, t in weights.items() if ".lora_" not in name}
    for name, A in weights.items():
        if name.endswith(FIRST):
            B, layer = weights[name.replace("lora_A", "lora_B")], name.removesuffix(FIRST)
            out[f"{layer}.weight"] = out[f"{layer}.weight"] + SCALE * (B @ A)
    return out
