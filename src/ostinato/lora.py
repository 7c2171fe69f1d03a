"""Low-rank adapters (LoRA, arXiv 2106.09685) on a language model's linear layers, through peft."""

import torch
from torch import Tensor, nn

from ostinato.errors import UserError


def adapt(lm: nn.Module, rank: int) -> None:
    """Freeze `lm` and put adapters of `rank` (alpha 2 * rank) on every linear layer of its blocks, in place.

    The second factor is zero, so the output is at first what it was. Raises UserError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("lora needs peft: run pip install 'ostinato[lora]', or train without it") from error
    names = [name for name, m in lm.named_modules() if isinstance(m, nn.Linear) and name.startswith("layers.")]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), lm)


@torch.no_grad()
def merged(lm: nn.Module) -> dict[str, Tensor]:
    """The state dict of an adapted model with every adapter added to its weight, named as without adapters."""
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in lm.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    for name, module in lm.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = module.get_delta_weight("default")  # type: ignore[operator]
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + delta
    return weights
