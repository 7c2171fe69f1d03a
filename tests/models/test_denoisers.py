"""The fine stage's networks: padding is invisible, any length fits, everything given is heard."""

import pytest
import torch
from tiny import TEXT, make_text

from ostinato.models.attention import CrossAttention
from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.lm import count_parameters
from ostinato.utils.errors import UserError

SMALL = {"num_codebooks": 3, "latent_width": 4, "text_width": TEXT, "width": 16, "heads": 2, "blocks": 1}
SMALL |= {"multiples": (1, 2, 2), "feed_forward": 24, "state": 5, "head_width": 8, "chunk": 3}


def make(kind, **changes):
    """One whose weights are random, the zeros of a beginning included."""
    torch.manual_seed(0)
    denoiser = make_denoiser(FineConfig(kind, **SMALL | changes)).double()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return denoiser.eval()


def inputs(T, b=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    noisy, coarse = (torch.randn(b, n, T, generator=g, dtype=torch.float64) for n in (8, 4))
    return noisy, coarse, torch.rand(b, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["unet", "simba"])
def test_padding_is_invisible_at_any_length(kind):
    denoiser, (text, text_mask) = make(kind), make_text(3, 5)
    noisy, coarse, time = inputs(11)
    lengths = torch.tensor([11, 6])
    mask = torch.arange(11) < lengths[:, None]
    found = denoiser(noisy, coarse, time, text, text_mask, mask)
    assert found.shape == noisy.shape
    for i, T in enumerate(lengths):
        tokens = int(text_mask[i].sum())
        row = [x[i : i + 1, :, :T] for x in (noisy, coarse)]
        alone = denoiser(*row, time[i : i + 1], text[i : i + 1, :tokens], text_mask[i : i + 1, :tokens])
        torch.testing.assert_close(found[i : i + 1, :, :T], alone)
    assert denoiser(*inputs(1), text, text_mask).shape == (2, 8, 1)


@pytest.mark.parametrize("kind", ["unet", "simba"])
def test_everything_is_heard(kind):
    """Of one frame's v: all frames before and after it, the coarse latent, the time and the text."""
    denoiser, (text, text_mask) = make(kind), make_text(3, 5)
    given = [*inputs(9), text]
    for x in given:
        x.requires_grad_()
    denoiser(*given, text_mask)[:, :, 4].sum().backward()
    noisy, coarse, time, words = (x.grad for x in given)
    assert (noisy.abs().sum(1) > 0).all() and (coarse.abs().sum(1) > 0).all()
    assert (time != 0).all() and torch.equal(words.abs().sum(-1) > 0, text_mask)


@pytest.mark.parametrize("kind", ["unet", "simba"])
def test_it_begins_at_zero_and_learns_with_all_weights(kind):
    """At first v is 0, the mean; after a step of the output layers every weight has a gradient, and recomputed
    activations give the same ones."""
    torch.manual_seed(0)
    denoiser, (text, text_mask) = make_denoiser(FineConfig(kind, **SMALL)).double(), make_text(3, 5)
    given = *inputs(9), text, text_mask
    assert not denoiser(*given).any()
    denoiser = make(kind).train()
    grads = []
    for denoiser.checkpointing in (False, True):
        denoiser.zero_grad()
        denoiser(*given).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in denoiser.named_parameters()})
    assert [name for name, grad in grads[0].items() if not grad.any()] == []
    torch.testing.assert_close(grads[0], grads[1])


def test_the_papers_unet_has_1_2_billion_weights():
    with torch.device("meta"):
        count = count_parameters(make_denoiser(FineConfig()))
    assert 1.15e9 < count < 1.25e9


def test_a_new_cross_attention_reads_text_of_another_width():
    torch.manual_seed(0)
    layer = CrossAttention(8, 2, text_width=TEXT).double()
    text, mask = make_text(3, 5)
    assert layer(torch.randn(2, 4, 8, dtype=torch.float64), layer.text_state(text, mask)).shape == (2, 4, 8)


@pytest.mark.parametrize(
    "changes",
    [{"denoiser": "unit"}, {"num_codebooks": 1}, {"multiples": ()}, {"dropout": 1.0}, {"width": 7}, {"blocks": 0}],
)
def test_sizes_that_cannot_be(changes):
    with pytest.raises((UserError, ValueError)):
        FineConfig(**changes)


@pytest.mark.slow
def test_the_papers_unet_takes_a_step():
    """One step of AdamW, each weight's as soon as its gradient is there, so that 5 GiB do for all 1.2 billion: the loss
    on 16 frames falls."""
    torch.manual_seed(0)
    denoiser = make_denoiser(FineConfig())
    stepped = []

    def step(p):
        torch.optim.AdamW([p], 1e-3).step()
        p.grad = None
        stepped.append(p.numel())

    for p in denoiser.parameters():
        p.register_post_accumulate_grad_hook(step)
    noisy, coarse, text = torch.randn(1, 64, 16), torch.randn(1, 8, 16), torch.randn(1, 4, 768)
    given = noisy, coarse, torch.tensor([0.5]), text, torch.ones(1, 4, dtype=torch.bool)
    loss = (denoiser(*given) - noisy).square().mean()
    loss.backward()
    assert sum(stepped) == count_parameters(denoiser) > 1.15e9
    with torch.no_grad():
        assert (denoiser(*given) - noisy).square().mean() < loss
