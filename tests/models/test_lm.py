import copy
import math

import pytest
import torch
from tiny import PATTERNS, make_lm, make_text

from ostinato.models import lm as lm_module
from ostinato.models.layout import outputs_last
from ostinato.models.lm import VARIANTS, LMConfig, MusicLM, Variant, count_parameters, sinusoids
from ostinato.utils.errors import UserError

MAMBA = [name for name, variant in VARIANTS.items() if "self-attention" not in variant.sublayers]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_model = pytest.mark.parametrize(
    ("variant", "K", "pattern", "changes"),
    [(variant, *pattern, {}) for variant in VARIANTS for pattern in PATTERNS]
    + [
        ("prefix-simba", 1, "single", {"positions": "sinusoidal", "norm": "layer", "condition_norm": True}),
        ("cross-simba", 3, "delay", {"positions": "sinusoidal", "condition_norm": True, "final_norm": False}),
        ("prefix-transformer", 3, "delay", {}),  # no system of the paper, but a variant is a line of data
        ("prefix-transformer", 1, "single", {"positions": "none"}),
    ],
)


@pytest.fixture(autouse=True)
def a_further_variant(monkeypatch):
    variant = Variant(("self-attention", "feed-forward"), "prefix", "sinusoidal")
    monkeypatch.setitem(lm_module.VARIANTS, "prefix-transformer", variant)


def some_steps(lm, b, S, seed=0):
    """Random steps, the first one special, as training and generation have it."""
    g = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, lm.special + 1, (b, lm.config.num_codebooks, S), generator=g)
    steps[:, :, 0] = lm.special
    return steps


def assert_same(a, b, atol=1e-9):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= atol, f"they differ by {(a - b).abs().max():.2e}"


@every_model
@torch.no_grad()
def test_state_is_the_whole_sequence(variant, K, pattern, changes):
    """forward == start and step by step == start and any mixture of extend and step."""
    lm, text = make_lm(variant, K, pattern, **changes), make_text(2, 5, 3)
    steps = some_steps(lm, 3, 17)
    wanted = lm(steps, *text)
    assert wanted.shape == (3, K, 17, 8)
    assert wanted.std() > 0.3, "flat logits would hide an error"
    for pieces in [1] * 17, [17], [5, 1, 1, 7, 1, 2], [1, 16]:
        state, found, at = lm.start(*text), [], 0
        for n in pieces:
            piece, at = steps[:, :, at : at + n], at + n
            found.append(lm.extend(piece, state) if n > 1 else lm.step(piece[:, :, 0], state).unsqueeze(2))
        assert_same(torch.cat(found, 2), wanted)


@every_variant
@torch.no_grad()
def test_steps_in_float32_are_the_sequence_in_float64(variant):
    """In the operators and the order in memory that a model is played with; of guidance's two rows."""
    exact, text = make_lm(variant), make_text(2, 5)
    lm, steps = copy.deepcopy(exact).float(), some_steps(exact, 2, 40)
    outputs_last(lm)
    assert all(torch.equal(p, t.float()) for p, t in zip(lm.parameters(), exact.parameters(), strict=True))
    state = lm.start(text[0].float(), text[1])
    found = torch.stack([lm.step(steps[:, :, s], state) for s in range(40)], 2)
    assert_same(found.double(), exact(steps, *text), 1e-5)


@every_model
@torch.no_grad()
def test_padding_of_the_text_is_invisible(variant, K, pattern, changes):
    lm, lengths = make_lm(variant, K, pattern, **changes), (2, 9, 1, 5)
    text, mask = make_text(*lengths)
    text = text + 100 * ~mask[..., None]  # what stands at padding is loud
    steps = some_steps(lm, 4, 8)
    together, state = lm(steps, text, mask), lm.start(text, mask)
    carried = torch.cat([lm.extend(steps[:, :, :5], state), lm.extend(steps[:, :, 5:], state)], 2)
    for i, n in enumerate(lengths):
        alone = lm(steps[i : i + 1], text[i : i + 1, :n], mask[i : i + 1, :n])
        assert_same(together[i : i + 1], alone)
        assert_same(carried[i : i + 1], alone)


@every_model
@torch.no_grad()
def test_causality(variant, K, pattern, changes):
    """The step at i, in any codebook, moves no logits before i and all from i on; so does every token of the text."""
    lm, text = make_lm(variant, K, pattern, **changes), make_text(4)
    steps = some_steps(lm, 1, 9)
    before = lm(steps, *text)
    for i in (0, 3, 8):
        for k in range(K):
            other = steps.clone()
            other[:, k, i] = (other[:, k, i] + 1) % lm.special
            moved = (lm(other, *text) - before).abs().amax((0, 1, 3))
            assert (moved[:i] == 0).all() and (moved[i:] > 1e-9).all()
    for s in range(4):
        other = text[0].clone()
        other[:, s] *= -1
        assert ((lm(steps, other, text[1]) - before).abs().amax((0, 1, 3)) > 1e-9).all()


@every_model
@torch.no_grad()
def test_state_is_cloned_and_saved(variant, K, pattern, changes):
    """A clone is its own: what is done to one leaves the other. So for tensors() loaded into another text's state."""
    lm, text = make_lm(variant, K, pattern, **changes), make_text(3, 6)
    steps = some_steps(lm, 2, 12)
    state = lm.start(*text)
    lm.extend(steps[:, :, :6], state)
    saved = {name: t.clone() for name, t in state.tensors().items()}
    wanted = lm.extend(steps[:, :, 6:], copy.deepcopy(state))

    fork = state.clone()
    for s in range(6, 12):
        lm.step(some_steps(lm, 2, 12, seed=9)[:, :, s], fork)
    assert all(torch.equal(t, saved[name]) for name, t in state.tensors().items())
    assert any(not torch.equal(t, saved[name]) for name, t in fork.tensors().items())

    loaded = lm.start(*make_text(4, 2, seed=8))
    loaded.load_tensors(saved)
    for way in state.clone(), state, loaded:
        assert_same(torch.stack([lm.step(steps[:, :, s], way) for s in range(6, 12)], 2), wanted)


@every_variant
def test_sublayers_are_the_papers(variant):
    """Figure 1 of the paper, (a) to (d), and where the text enters."""
    blocks = {
        "prefix-mamba": ["mamba", "mamba"],
        "prefix-simba": ["mamba", "feed-forward"],
        "cross-simba": ["mamba", "cross-attention", "feed-forward"],
        "cross-transformer": ["self-attention", "cross-attention", "feed-forward"],
    }
    lm = make_lm(variant, blocks=3)
    mixers = {"Mamba2": "mamba", "SelfAttention": "self-attention", "CrossAttention": "cross-attention"}
    found = [mixers.get(type(layer.mixer).__name__, "feed-forward") for layer in lm.layers]
    assert found == [layer.kind for layer in lm.layers] == 3 * blocks[variant]
    assert lm.positions == ("sinusoidal" if variant == "cross-transformer" else "none")


@pytest.mark.parametrize(
    ("millions", "changes"),
    [
        (357, {"variant": "prefix-mamba"}),
        (281, {"variant": "prefix-simba"}),
        (381, {"variant": "cross-simba"}),
        (306, {"variant": "cross-transformer"}),
        (300, {"variant": "prefix-simba", "num_codebooks": 9, "pattern": "delay"}),
        (141, {"variant": "prefix-simba", "blocks": 12}),
    ],
)
def test_parameters_are_as_many_as_the_papers(millions, changes):
    with torch.device("meta"):
        lm = MusicLM(LMConfig(**changes))
    assert count_parameters(lm) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("layout", ["sinusoidal", "audiocraft"])
def test_positions_are_exact_after_an_hour(layout):
    """Against angles reckoned one by one; in float32 they would be off by 0.02. Times of a denoiser keep their bits."""
    width, position = 16, 3600 * 86 + 7
    last = width if layout == "sinusoidal" else width - 2
    angles = [position * math.exp(-math.log(10000) * 2 * i / last) for i in range(width // 2)]
    pairs = [(math.sin(a), math.cos(a)) for a in angles]
    wanted = sum(pairs, ()) if layout == "sinusoidal" else [c for _, c in pairs] + [s for s, _ in pairs]
    found = sinusoids(torch.tensor([[position]]), width, layout)[0, 0]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-9, rtol=0)
    assert sinusoids(torch.rand(1, 1), width, layout).dtype == torch.float32


@torch.no_grad()
def test_memory_of_a_recurrent_model_does_not_grow():
    for variant in VARIANTS:
        lm = make_lm(variant)
        state = lm.start(*make_text(3))
        sizes = []
        for step in range(300):
            lm.step(torch.tensor([[step % 7]]), state)
            sizes.append(sum(t.numel() for t in state.tensors().values()))
        assert (sizes[0] == sizes[199] == sizes[-1]) == (variant in MAMBA)
        assert int(state.position) == 300 + (3 if lm.variant.text == "prefix" else 0)


@pytest.mark.parametrize("variant", ["cross-simba", "cross-transformer"])
@torch.no_grad()
def test_text_is_read_once(variant):
    lm, calls = make_lm(variant), []
    for layer in lm.layers:
        if layer.kind == "cross-attention":
            layer.mixer.kv_proj.register_forward_hook(lambda *_: calls.append(1))
    state = lm.start(*make_text(3, 5))
    for s in range(5):
        lm.step(torch.full((2, 1), s), state)
    lm.extend(torch.zeros(2, 1, 6, dtype=torch.long), state)
    assert len(calls) == 2


@every_variant
def test_every_parameter_learns(variant):
    """None is left out of the forward pass, in any codebook; and dropout acts in training alone."""
    lm = make_lm(variant, 3, "delay", dropout=0.5)
    steps, text = some_steps(lm, 2, 12), make_text(4, 2)
    assert torch.equal(lm(steps, *text), lm(steps, *text))
    lm.train()
    assert not torch.equal(lm(steps, *text), lm(steps, *text))
    lm(steps, *text).square().sum().backward()
    assert [name for name, p in lm.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "prefix-samba"}, "'prefix-samba'.*'prefix-simba'"),
        ({"pattern": "delayed"}, "'delayed'.*single, delay, flatten"),
        ({"num_codebooks": 4}, "one codebook, not 4"),
        ({"norm": "batch"}, r"rms or layer.*'batch'"),
        ({"positions": "rotary"}, r"positions.*sinusoidal.*'rotary'"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        LMConfig(**changes)
