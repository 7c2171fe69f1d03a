import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PATTERNS, make_lm, make_text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ostinato.lm import VARIANTS
from ostinato.lm_task import code_losses, make_batch
from ostinato.plan import flops, step_flops


def training_pass(lm, batch, frames, text):
    codes = [(torch.randint(lm.special, (lm.config.num_codebooks, frames)), "") for _ in range(batch)]
    inputs, targets, _ = make_batch(codes, lm.pattern, lm.special)
    embedded, mask = make_text(*[text] * batch, dtype=torch.float32)
    code_losses(lm(inputs, embedded, mask), targets).mean().backward()


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=20)
@given(
    pattern=st.sampled_from(PATTERNS),
    batch=st.integers(1, 3),
    frames=st.integers(9, 40),
    text=st.integers(1, 6),
    blocks=st.integers(1, 3),
    chunk=st.integers(2, 8),
)
def test_flops_are_what_pytorch_counts(variant, pattern, batch, frames, text, blocks, chunk):
    """Its counter sees every product of matrices, forward and backward. It does not see the convolution, which is
    shifted products here, and sees the pairs above the diagonal, which PyTorch's plain attention computes and masks."""
    lm = make_lm(variant, *pattern, dtype=torch.float32, blocks=blocks, chunk=chunk).train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        training_pass(lm, batch, frames, text)
    parts = flops(lm.config, batch, frames, text)
    assert step_flops(lm.config, batch, frames, text) == sum(parts.values())
    convolution, S = parts.get("mamba: convolution", 0), lm.pattern.length(frames)
    masked = 3 * batch * blocks * 4 * lm.config.width * S * (S - 1) // 2 if "transformer" in variant else 0
    assert counter.get_total_flops() == sum(parts.values()) - convolution + masked
