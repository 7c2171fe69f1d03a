import copy
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PATTERNS, make_codec, make_lm, make_text

from ostinato.generation import sampling
from ostinato.generation.guidance import both_branches, guide
from ostinato.generation.pipeline import Ostinato
from ostinato.generation.sampling import BLOCK, Generation, Sampling, begin, exponential, generate_frames, sample
from ostinato.models.lm import VARIANTS
from ostinato.models.text_encoder import load_text_encoder
from ostinato.utils.errors import UserError

every_pattern = pytest.mark.parametrize(("K", "pattern"), PATTERNS)
EMPTY = make_text(1, seed=99)
LIVELY = Sampling(guidance=2.0, temperature=2.0, top_k=6, top_p=0.98)  # with these models: all codes, none certain


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def take(lm, generation, count):
    return torch.stack(list(islice(generate_frames(lm, generation), count)), 2)


def simple(lm, text, settings, seeds, count, given=None, empty=EMPTY):
    """What generation means, without state or batch: every row by itself, and for every step the whole sequence again,
    once with the text and once with the empty one."""
    rows = []
    for i, seed in enumerate(seeds):
        n, K, T0 = int(text[1][i].sum()), lm.config.num_codebooks, 0 if given is None else given.shape[2]
        own, (generator,) = (text[0][i : i + 1, :n], text[1][i : i + 1, :n]), generators(seed)
        steps = torch.full((1, K, 1), lm.special)
        for s in range(lm.pattern.length(T0 + count)):
            if s < T0 * lm.pattern.stride:  # all of it given: nothing is drawn
                code = torch.zeros(1, K, dtype=torch.long)
            else:
                with_text, without = lm(steps, *own)[:, :, -1], lm(steps, *empty)[:, :, -1]
                logits = without + settings.guidance * (with_text - without)
                code = sample(logits[..., : lm.special], settings, [generator])
            for k in range(K):
                t = lm.pattern.frame(s, k)
                if t is None:
                    code[:, k] = lm.special
                elif t < T0:
                    code[:, k] = given[i, k, t]
            steps = torch.cat([steps, code.unsqueeze(-1)], 2)
        rows.append(lm.pattern.decode(steps[:, :, 1:]))
    return torch.cat(rows)


@every_pattern
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_generation_is_the_simple_one(variant, K, pattern):
    """With state, both branches and several texts in one batch, and with a beginning given: the same codes."""
    lm, text, seeds = make_lm(variant, K, pattern), make_text(3, 6), [5, 8]
    wanted = simple(lm, text, LIVELY, seeds, 6)
    assert torch.equal(take(lm, begin(lm, text, EMPTY, LIVELY, seeds), 6), wanted)
    assert 0 <= wanted.min() < wanted.max() < lm.special and not torch.equal(wanted[0], wanted[1])
    given = torch.randint(lm.special, (2, K, 4), generator=generators(1)[0])
    wanted = simple(lm, text, LIVELY, seeds, 5, given)
    generation = begin(lm, text, EMPTY, LIVELY, seeds, given)
    assert torch.equal(torch.cat([generation.prompt_codes, take(lm, generation, 5)], 2), wanted)
    assert torch.equal(wanted[:, :, :4], given)


@every_pattern
@torch.no_grad()
def test_guidance_1_is_the_text_alone(K, pattern):
    """No second branch is computed, and the codes are those that both branches give at (very nearly) 1."""
    lm, text, seeds = make_lm("cross-simba", K, pattern), make_text(4, 2), [1, 2]
    one, both = (Sampling(guidance, 2.0, 0) for guidance in (1.0, 1.0 + 1e-12))
    alone, double = (begin(lm, text, EMPTY, settings, seeds) for settings in (one, both))
    assert len(alone.state.position) == 2 and len(double.state.position) == 4
    codes = take(lm, alone, 30)
    assert torch.equal(codes, take(lm, double, 30))
    assert torch.equal(codes[..., :8], simple(lm, text, one, seeds, 8))
    assert not torch.equal(codes, take(lm, begin(lm, text, EMPTY, Sampling(3.0, 2.0, 0), seeds), 30))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("empty_length", [1, 8])
@torch.no_grad()
def test_branches_are_two_runs(variant, empty_length):
    lm, text, empty = make_lm(variant), make_text(3, 6), make_text(empty_length, seed=4)
    states = [lm.start(*t) for t in (both_branches(text, empty), text, empty)]
    for s in range(4):
        codes = torch.tensor([[s], [s + 1]])
        both = lm.step(codes.repeat(2, 1), states[0])
        with_text, without = lm.step(codes, states[1]), [lm.step(code[None], states[2].clone()) for code in codes]
        wanted = torch.cat([with_text, *without])
        assert (both - wanted).abs().max() < 1e-9
        guided = guide(both, 2.5)
        assert (guided - (2.5 * wanted[:2] - 1.5 * wanted[2:])).abs().max() < 1e-9
        lm.step(codes[:1], states[2])  # the branches share a past, so that one state is enough here
        states[0], states[1] = lm.start(*both_branches(text, empty)), lm.start(*text)
        for past in range(s + 1):
            lm.step(torch.full((4, 1), past), states[0])
            lm.step(torch.full((2, 1), past), states[1])


def allowed_probabilities(logits, temperature, top_k, top_p):
    """By brute force: the probability of each code, in plain Python."""
    order = sorted(range(len(logits)), key=lambda v: -logits[v])
    kept = order[:top_k] if top_k else order
    weights = {v: 2.718281828459045 ** ((logits[v] - logits[order[0]]) / temperature) for v in kept}
    nucleus, reached = [], 0.0
    for v in kept:
        if reached < top_p:
            nucleus.append(v)
        reached += weights[v] / sum(weights.values())
    whole = sum(weights[v] for v in nucleus)
    return [weights[v] / whole if v in nucleus else 0.0 for v in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 3, 8, 250])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.9, 1.0])
def test_frequencies_are_the_probabilities(temperature, top_k, top_p):
    """Each of two rows with logits of its own, thousands of draws in one call: chi-square, and no forbidden code."""
    N, V = 4000, 8
    logits = 1.5 * torch.randn(2, V, generator=generators(top_k)[0])
    drawn = sample(logits[:, None].expand(2, N, V), Sampling(1.0, temperature, top_k, top_p), generators(3, 4))
    assert drawn.shape == (2, N)
    for row, codes in zip(logits.tolist(), drawn, strict=True):
        expected = torch.tensor(allowed_probabilities(row, temperature, top_k, top_p), dtype=torch.float64) * N
        counts = codes.bincount(minlength=V).double()
        live = expected > 0
        assert (counts[~live] == 0).all()
        chi, freedom = ((counts - expected)[live] ** 2 / expected[live]).sum(), int(live.sum()) - 1
        assert chi <= freedom + 4 * (2 * freedom) ** 0.5 + 1e-9


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from((0, 1, 4)), st.sampled_from((0.1, 1.0)))
def test_temperature_0_is_the_likeliest(seed, top_k, top_p):
    logits = torch.randn(3, 2, 9, generator=generators(seed)[0])
    wanted = [[max(range(9), key=row.__getitem__) for row in codebooks] for codebooks in logits.tolist()]
    assert sample(logits, Sampling(1.0, 0.0, top_k, top_p), generators(0, 1, 2)).tolist() == wanted
    # So it is close above 0, and where one code alone is left.
    assert sample(logits, Sampling(1.0, 1e-6), generators(0, 1, 2)).tolist() == wanted
    assert sample(logits, Sampling(1.0, 5.0, 1), generators(0, 1, 2)).tolist() == wanted
    assert sample(logits, Sampling(1.0, 5.0, 0, 1e-6), generators(0, 1, 2)).tolist() == wanted


@every_pattern
@torch.no_grad()
def test_the_special_token_is_never_drawn(K, pattern):
    """Even where the model finds it likeliest by far."""
    lm, text = make_lm("prefix-simba", K, pattern), make_text(3)
    for head in lm.lm_head:
        head.weight[lm.special] *= 100
    for temperature in (0.0, 5.0):
        codes = take(lm, begin(lm, text, EMPTY, Sampling(1.0, temperature, 0), [0]), 20)
        likeliest = lm(lm.pattern.encode(codes, lm.special), *text).argmax(-1)
        assert (likeliest == lm.special).sum() > 5
        assert codes.min() >= 0 and codes.max() < lm.special


@every_pattern
@torch.no_grad()
def test_a_row_is_its_prompt_alone(K, pattern):
    """Same seed, same codes, whatever else is in the batch; another seed, others."""
    lm, text, seeds = make_lm("cross-transformer", K, pattern), make_text(3, 1, 7), [40, 41, 42]
    codes = take(lm, begin(lm, text, EMPTY, LIVELY, seeds), 12)
    assert torch.equal(codes, take(lm, begin(lm, text, EMPTY, LIVELY, seeds), 12))
    for i, n in enumerate((3, 1, 7)):
        one = text[0][i : i + 1, :n], text[1][i : i + 1, :n]
        assert torch.equal(codes[i : i + 1], take(lm, begin(lm, one, EMPTY, LIVELY, seeds[i : i + 1]), 12))
        assert not torch.equal(codes[i : i + 1], take(lm, begin(lm, one, EMPTY, LIVELY, [7]), 12))


@every_pattern
@pytest.mark.parametrize("T0", [1, 2, 7])
@torch.no_grad()
def test_continuing_is_not_having_stopped(K, pattern, T0):
    """Codes given back to the model lead to the frames that followed them, with generators as they stood then."""
    lm, text, seeds = make_lm("prefix-simba", K, pattern), make_text(3, 5), [3, 4]
    generation = begin(lm, text, EMPTY, LIVELY, seeds)
    at = {}

    def noted(shape, generators, *others):
        at[generation.done] = [g.get_state() for g in generators]
        return exponential(shape, generators, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ostinato.generation.sampling.exponential", noted)
        whole = take(lm, generation, T0 + 9)
    again = begin(lm, text, EMPTY, LIVELY, [0, 0], whole[:, :, :T0])
    for generator, state in zip(again.generators, at[again.done], strict=True):
        generator.set_state(state)
    assert torch.equal(take(lm, again, 9), whole[:, :, T0:])


@torch.no_grad()
def test_a_long_beginning_is_read_in_parts():
    """Longer than what is read at once."""
    lm, text = make_lm("prefix-simba", chunk=64, blocks=1), make_text(3)
    given = torch.randint(7, (1, 1, 2050), generator=generators(1)[0])
    found = begin(lm, text, EMPTY, LIVELY, [0], given)
    state = lm.start(*both_branches(text, EMPTY))
    lm.extend(torch.cat([torch.full((1, 1, 1), lm.special), given[:, :, :-1]], 2).repeat(2, 1, 1), state)
    for name, wanted in state.tensors().items():
        assert (found.state.tensors()[name] - wanted).abs().max() < 1e-9, name


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_saved_and_forked_it_goes_on_the_same(tmp_path_factory, data):
    variant, (K, pattern) = data.draw(st.sampled_from(list(VARIANTS))), data.draw(st.sampled_from(PATTERNS))
    lm, text = make_lm(variant, K, pattern), make_text(3, 5)
    settings = Sampling(data.draw(st.sampled_from((1.0, 3.0))), 2.5, 6, 0.97)
    T0, count = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 6))
    given = torch.randint(7, (2, K, T0), generator=generators(1)[0]) if T0 else None
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(BLOCK, "cpu", data.draw(st.sampled_from((1, 4))))  # noise that is drawn ahead is not lost
        generation = begin(lm, text, EMPTY, settings, [1, 2], given)
        list(islice(generate_frames(lm, generation), count))
        path = tmp_path_factory.mktemp("saved") / "generation.safetensors"
        generation.save(path)
        fork = copy.deepcopy(generation)
        wanted = take(lm, generation, 5)
        assert torch.equal(take(lm, fork, 5), wanted)
        loaded = Generation.load(path, lm)
        assert torch.equal(take(lm, loaded, 5), wanted)
        assert torch.equal(loaded.prompt_codes, generation.prompt_codes) and loaded.settings == settings
        assert torch.equal(take(lm, loaded, 3), take(lm, generation, 3))  # and what was loaded is as alive


def test_files_that_are_no_generation_of_this_model(tmp_path):
    lm, text = make_lm("prefix-simba"), make_text(2)
    good = tmp_path / "good.safetensors"
    begin(lm, text, EMPTY, LIVELY, [0]).save(good)
    Generation.load(good, lm)
    (tmp_path / "text.safetensors").write_text("not at all")
    (tmp_path / "short.safetensors").write_bytes(good.read_bytes()[:-40])
    from safetensors.torch import save_file

    save_file({"given": torch.zeros(1, 1, 0)}, tmp_path / "weights.safetensors")
    wrong = [tmp_path / f"{name}.safetensors" for name in ("text", "short", "weights", "absent")]
    others = {
        "variant": make_lm("cross-simba"),
        "fewer": make_lm(blocks=1),
        "more": make_lm(blocks=3),
        "narrow": make_lm(state=4),
        "K": make_lm(K=3, pattern="delay"),
    }
    for name, other in others.items():
        begin(other, text, EMPTY, LIVELY, [0]).save(tmp_path / f"{name}.safetensors")
        wrong.append(tmp_path / f"{name}.safetensors")
    for path in wrong:
        with pytest.raises(UserError, match="is not a saved generation of this model") as error:
            Generation.load(path, lm)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -0.1}, "temperature.*-0.1"),
        ({"top_k": -1}, "top-k.*-1"),
        ({"top_p": 0.0}, "top-p.*0.0"),
        ({"top_p": 1.5}, "top-p.*1.5"),
        ({"temperature": float("nan")}, "temperature.*nan"),
        ({"guidance": float("inf")}, "guidance.*inf"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        Sampling(**wrong)


@pytest.fixture(scope="module")
def model():
    lm = make_lm("cross-simba", 3, "delay", dtype=torch.float32, text_width=384, codebook_size=32)
    return Ostinato(lm, load_text_encoder("minilm"), make_codec())


def test_generate_gives_audio_and_codes(model):
    prompts = ["a slow piano", "", "fast drums, distorted guitars and a choir in a large hall"]
    clips = model.generate(prompts, seconds=0.4, seed=3)
    for i, (clip, prompt) in enumerate(zip(clips, prompts, strict=True)):
        alone = model.generate(prompt, seconds=0.4, seed=3 + i)
        assert torch.equal(clip.codes, alone.codes) and clip.prompt == prompt
        assert clip.codes.shape == (3, 20) and clip.sample_rate == 8000
        assert clip.audio.shape == (1, 20 * 160) and torch.allclose(clip.audio, alone.audio, atol=1e-5)
    streamed = torch.stack(list(islice(model.stream(prompts[0], seed=3), 20)), 1)
    assert torch.equal(streamed, clips[0].codes)


def test_generate_goes_on_from_audio(model, tmp_path):
    first = model.generate("a slow piano", seconds=0.3, seed=1)
    first.save(tmp_path / "first.wav")
    more = model.generate(["a slow piano", "drums"], seconds=0.2, seed=1, continue_from=tmp_path / "first.wav")
    for clip in more:
        assert clip.codes.shape == (3, 15 + 10)
        assert torch.equal(clip.codes[:, :15], more[0].codes[:, :15])
    same = model.generate("a slow piano", seconds=0.2, seed=1, continue_from=more[0].codes[:, :15])
    assert torch.equal(same.codes, more[0].codes)


def test_generate_refuses_what_cannot_be(model, tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF of nothing")
    for wrong in (
        {"seconds": 0},
        {"seconds": -1},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"prompt": []},
        {"continue_from": tmp_path / "absent.wav"},
        {"continue_from": tmp_path / "noise.wav"},
        {"continue_from": torch.full((1, 3, 4), 32)},  # beyond the codebook
        {"continue_from": torch.zeros(1, 2, 4, dtype=torch.long)},  # too few codebooks
    ):
        with pytest.raises(UserError):
            model.generate(**{"prompt": "a piano", "seconds": 0.1} | wrong)


def test_small_steps_are_one_threads(monkeypatch):
    """At the barriers of small operators threads wait for one another, on a busy machine ten times as long as the work
    takes; whoever asks for frames has all threads for what is done with them."""
    lm, seen = make_lm(), []
    step = type(lm).step
    monkeypatch.setattr(type(lm), "step", lambda *given: seen.append(torch.get_num_threads()) or step(*given))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        frames = generate_frames(lm, begin(lm, make_text(2), EMPTY, LIVELY, [0]))
        outside = [torch.get_num_threads() for _ in islice(frames, 2)]
        monkeypatch.setattr(sampling, "ONE_THREAD", 10)
        next(generate_frames(lm, begin(lm, make_text(2), EMPTY, LIVELY, [0])))
    finally:
        torch.set_num_threads(before)
    assert outside == [3, 3] and seen == [1, 1, 3]
