"""Diffusion: samplers draw from the distribution whose denoiser they are given, and windows change nothing in reach."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ostinato.generation.diffusion import code_loss, code_velocity, denoise, guided, noised, v_loss, velocity
from ostinato.generation.schedule import GRID, LEAST, SAMPLERS, noises, schedule
from ostinato.generation.settings import FineSampling
from ostinato.generation.windows import Windows, joins
from ostinato.utils.errors import UserError

MEAN = torch.tensor([0.4, -0.7])
COVARIANCE = torch.tensor([[1.1, 0.5], [0.5, 0.6]])


def exact(noisy, time):
    """v of the best denoiser of a Gaussian: noise and latent have a Gaussian's conditional means."""
    c, s = math.cos(float(time) * math.pi / 2), math.sin(float(time) * math.pi / 2)
    total = c * c * COVARIANCE + s * s * torch.eye(2)
    off = torch.linalg.solve(total, noisy - c * MEAN[:, None])  # [b, 2, T]
    clean, noise = MEAN[:, None] + c * COVARIANCE @ off, s * off
    return c * noise - s * clean


@pytest.mark.slow
@pytest.mark.parametrize("sampler, steps", [("ddpm", 100), ("ddim", 100), ("dpm++", 20)])
def test_a_gaussian_is_recovered(sampler, steps):
    noise = torch.randn(noises(sampler, steps), 8, 2, 2500, generator=torch.Generator().manual_seed(0))
    found = denoise(exact, noise, sampler, steps)[-1].transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean(1), MEAN, atol=0.03, rtol=0)
    torch.testing.assert_close(found.cov(), COVARIANCE, atol=0.05, rtol=0)


@pytest.mark.parametrize("sampler, steps", [("ddpm", 100), ("ddim", 100), ("dpm++", 40)])
def test_codes_are_drawn_as_often_as_they_stand(sampler, steps):
    """Two codebooks of four codes, of which a denoiser that tells codes knows only how frequent each is."""
    table = torch.tensor([[[1.2, 0.1], [-0.9, 0.8], [0.2, -1.3], [-0.6, -0.7]], [[0.9, 0], [0, 1.1], [-1, 0], [0, -1]]])
    often = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.05, 0.15, 0.2, 0.6]])
    logits = often.log().flatten()[:, None]
    noise = torch.randn(noises(sampler, steps), 8, 4, 2500, generator=torch.Generator().manual_seed(0))
    found = denoise(lambda x, t: code_velocity(logits.expand(8, 8, 2500), x, t.expand(8), table), noise, sampler, steps)
    places = found[-1].unflatten(1, (2, 2)).permute(1, 0, 3, 2).flatten(1, 2)  # [2, 20000, 2]
    away, code = torch.cdist(places, table).min(2)
    assert away.quantile(0.99) < 0.05
    counts = torch.stack([c.bincount(minlength=4) for c in code]) / 20000
    torch.testing.assert_close(counts, often, atol=0.02, rtol=0)


@pytest.mark.parametrize("time", [0.05, 0.4, 0.8, 1.0])
def test_codes_tell_v_by_bayes(time):
    """The mean of v over all pairs of codes, each as likely as prior and noise make it; the loss likewise."""
    g = torch.Generator().manual_seed(0)
    table, logits = torch.randn(2, 5, 3, generator=g), torch.randn(1, 10, 1, generator=g)
    codes, at = torch.tensor([[[1], [4]]]), torch.tensor([time])
    clean = torch.cat([table[0, 1], table[1, 4]])[None, :, None]
    noisy = noised(clean, torch.randn(1, 6, 1, generator=g), at)
    c, s = math.cos(time * math.pi / 2), math.sin(time * math.pi / 2)
    total, mean, true = 0.0, torch.zeros(6, dtype=torch.float64), 0.0
    for i in range(5):
        for j in range(5):
            x = torch.cat([table[0, i], table[1, j]]).double()
            e = (noisy[0, :, 0].double() - c * x) / s
            odds = math.exp(logits[0, i] + logits[0, 5 + j] - 0.5 * float(e.square().sum()))
            total, mean = total + odds, mean + odds * (c * e - s * x)
            true += odds * ((i == 1) + (j == 4) == 2)
    found = code_velocity(logits, noisy, at, table)
    torch.testing.assert_close(found[0, :, 0].double(), mean / total, atol=1e-4, rtol=1e-3)
    loss = code_loss(logits, noisy, at, table, codes, torch.ones(1, 1))
    assert float(loss) == pytest.approx(-math.log(true / total) / 2, abs=1e-4)


def test_ddpm_is_that_of_ho_et_al():
    """A step by the posterior of arXiv 2006.11239, equations 6 and 7, with its smaller variance."""
    steps = 10
    noise = torch.randn(1 + steps, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    path = denoise(exact, noise, "ddpm", steps)
    at = [*(step.time for step in schedule("ddpm", steps)), 0.0]
    for i in range(1, steps - 1):  # the first has no signal, the last no noise
        a, b = (math.cos(t * math.pi / 2) ** 2 for t in (at[i], at[i + 1]))
        v, beta = exact(path[i], torch.tensor(at[i])), 1 - a / b
        clean = math.sqrt(a) * path[i] - math.sqrt(1 - a) * v
        mean = math.sqrt(b) * beta / (1 - a) * clean + math.sqrt(a / b) * (1 - b) / (1 - a) * path[i]
        wanted = mean + math.sqrt((1 - b) / (1 - a) * beta) * noise[1 + i]
        torch.testing.assert_close(path[i + 1], wanted, atol=1e-4, rtol=1e-3)


@settings(max_examples=20)
@given(st.sampled_from(SAMPLERS), st.integers(1, 40))
def test_schedules_begin_in_noise_and_fall(sampler, steps):
    found = torch.tensor([step.time for step in schedule(sampler, steps)])
    assert len(found) == steps and found[0] > 0.999 and (found.diff() < 0).all() and found[-1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 16, 100])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_those_of_diffusers(sampler, steps):
    """The same latents at every step from diffusers' schedulers, which compute in float32."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    options = {
        "num_train_timesteps": steps * math.ceil(GRID / steps),
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    if sampler == "dpm++":
        theirs = DPMSolverMultistepScheduler(**options, algorithm_type="dpmsolver++", solver_order=2)
    else:
        theirs = DDIMScheduler(**options, clip_sample=False)
        # At a first step of no signal at all, DDIM takes the root of a 0 that rounding makes negative.
        theirs.alphas_cumprod = theirs.alphas_cumprod.double().clamp(min=LEAST**2)
    theirs.set_timesteps(steps)
    noise = torch.randn(noises(sampler, steps), 1, 2, 50, generator=torch.Generator().manual_seed(2))
    path = denoise(exact, noise, sampler, steps)
    x = noise[0]
    for i, at in enumerate(theirs.timesteps):
        torch.testing.assert_close(path[i], x, atol=2e-5, rtol=0)
        time = theirs.alphas_cumprod[at].sqrt().clamp(0, 1).acos() * (2 / math.pi)
        more = {"eta": 1.0, "variance_noise": noise[1 + i]} if sampler == "ddpm" else {}
        x = theirs.step(exact(x, time), at, x, **more).prev_sample
    torch.testing.assert_close(path[-1], x.float(), atol=2e-5, rtol=0)


@settings(max_examples=20)
@given(st.floats(0, 1))
def test_the_clean_latent_and_the_noise_come_back_from_v(time):
    clean, noise = torch.randn(2, 1, 3, 4, dtype=torch.float64).unbind()
    at = torch.tensor([time], dtype=torch.float64)
    x, v, c, s = noised(clean, noise, at), velocity(clean, noise, at), *(f(time * math.pi / 2) for f in COS_SIN)
    torch.testing.assert_close(c * x - s * v, clean)
    torch.testing.assert_close(s * x + c * v, noise)
    assert v_loss(v, clean, noise, at, torch.ones(1, 4, dtype=torch.bool)) < 1e-12


COS_SIN = (math.cos, math.sin)


def test_guidance_1_is_the_conditional_and_guidance_leads_away_from_the_empty_text():
    def denoiser(noisy, coarse, time, text, mask):
        return (
            noisy * time[:, None, None]
            + coarse.mean(1, keepdim=True)
            + (text * mask[..., None]).sum((1, 2))[:, None, None]
        )

    g = torch.Generator().manual_seed(0)
    noisy, coarse = torch.randn(2, 3, 5, generator=g), torch.randn(2, 1, 5, generator=g)
    text = torch.randn(2, 4, 6, generator=g), torch.ones(2, 4, dtype=torch.bool)
    empty = torch.randn(1, 1, 6, generator=g), torch.ones(1, 1, dtype=torch.bool)
    time = torch.tensor(0.3)
    with_text = denoiser(noisy, coarse, time.expand(2), *text)
    without = denoiser(noisy, coarse, time.expand(2), *(x.expand(2, *x.shape[1:]) for x in empty))
    assert torch.equal(guided(denoiser, text, empty, 1.0)(coarse)(noisy, time), with_text)
    torch.testing.assert_close(guided(denoiser, text, empty, 0.0)(coarse)(noisy, time), without)
    wanted = without + 3 * (with_text - without)
    torch.testing.assert_close(guided(denoiser, text, empty, 3.0)(coarse)(noisy, time), wanted)


def run(windows, coarse, draw, given=None):
    """coarse [b, C, T], in stretches as long as the window takes -> fine [b, F, T]."""
    if given is not None and windows.overlap:
        latents, clean = (latent[..., -windows.overlap :] for latent in given)
        windows.begin(latents, clean, torch.stack([draw() for _ in range(latents.shape[-1])], -1))
    found = []
    while coarse.shape[-1]:
        n = min(windows.missing, coarse.shape[-1])
        found.append(windows.push(coarse[..., :n], torch.stack([draw() for _ in range(n)], -1)))
        coarse = coarse[..., n:]
    rest = windows.finish()
    return torch.cat([*found, *([] if rest is None else [rest])], -1)


def drawn(coarse, sampler, steps, window, overlap, reach=(0, 0), given=None, first=0):
    """What windows make of a denoiser that looks `reach` frames back and ahead, the noise a function of the frame."""
    g = torch.Generator().manual_seed(7)
    kernel = torch.linspace(0.1, 0.4, sum(reach) + 1).view(1, 1, -1).expand(2, 1, -1)

    def v_of(beside):
        def v(noisy, time):
            near = torch.nn.functional.pad(noisy, reach)
            return torch.nn.functional.conv1d(near, kernel, groups=2) * (0.5 + time) + beside.mean(1, keepdim=True)

        return v

    settings = FineSampling(sampler, steps)

    def draw():
        return torch.randn(noises(sampler, steps), 1, 2, generator=g)

    return run(Windows(v_of, settings, window, overlap, first=first), coarse, draw, given)


@settings(max_examples=12)
@given(
    st.sampled_from(SAMPLERS),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 4),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 6),
    st.integers(0, 4),
)
def test_no_seam_within_reach(sampler, steps, T, overlap, more, ahead, first, before):
    """Windows, after given frames or none, are as one window where the denoiser looks back no further than the overlap,
    or ahead so far that all its steps together do not; growing ones, where it looks back alone."""
    coarse = torch.randn(1, 3, T, generator=torch.Generator().manual_seed(3))
    reach = (overlap, overlap // steps if ahead and not first else 0)
    before, window = min(before, overlap), 2 * overlap + more
    given = (torch.randn(1, 3, before), torch.randn(1, 2, before)) if before else None
    windowed = drawn(coarse, sampler, steps, window, overlap, reach, given, min(window, first))
    whole = drawn(coarse, sampler, steps, max(T + before, 2 * overlap + 1), overlap, reach, given)
    assert windowed.shape == (1, 2, T)
    torch.testing.assert_close(windowed, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_clip_of_one_window_is_denoised_whole(sampler):
    """Window of one: no windows; exactly what `denoise` gives of the noise of all frames."""
    coarse, g = torch.randn(1, 3, 11, generator=torch.Generator().manual_seed(3)), torch.Generator().manual_seed(7)
    noise = torch.stack([torch.randn(noises(sampler, 3), 1, 2, generator=g) for _ in range(11)], -1)
    kernel = torch.linspace(0.1, 0.4, 3).view(1, 1, -1).expand(2, 1, -1)

    def v(noisy, time):
        near = torch.nn.functional.conv1d(torch.nn.functional.pad(noisy, (1, 1)), kernel, groups=2)
        return near * (0.5 + time) + coarse.mean(1, keepdim=True)

    wanted = denoise(v, noise, sampler, 3)[-1]
    for window, overlap in ((11, 0), (12, 2), (40, 2)):
        assert torch.equal(drawn(coarse, sampler, 3, window, overlap, (1, 1)), wanted)


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(0, 4), st.integers(1, 9))
def test_joins_are_where_windows_meet(T, overlap, more):
    window, begun = 2 * overlap + more, []

    def v_of(beside):
        begun.append(sum(lengths))
        return lambda x, time: x

    windows, lengths = Windows(v_of, FineSampling(steps=1), window, overlap), []
    for _ in range(T):
        lengths.append(windows.push(torch.zeros(1, 1, 1), torch.zeros(1, 1, 2, 1)).shape[-1])
    windows.finish()
    assert begun == [0, *joins(T, window, overlap)]


@given(st.integers(1, 90), st.integers(0, 20), st.integers(1, 60), st.integers(1, 60), st.integers(0, 20))
def test_growing_windows(T, overlap, more, first, before):
    """Each gives something out, of which three quarters of the first are soon; each is longer than the last, up to
    `window`; every frame is given out once."""
    before, window, sizes = min(before, overlap), 2 * overlap + more, []

    def v_of(beside):
        sizes.append(beside.shape[-1])
        return lambda x, time: x

    windows = Windows(v_of, FineSampling(steps=1), window, overlap, first=min(window, first))
    if before:
        windows.begin(torch.zeros(1, 1, before), torch.zeros(1, 2, before), torch.zeros(1, 1, 2, before))
    given_out = [windows.push(torch.zeros(1, 1, 1), torch.zeros(1, 1, 2, 1)).shape[-1] for _ in range(T)]
    rest = windows.finish()
    assert sum(given_out) + (0 if rest is None else rest.shape[-1]) == T
    assert len([n for n in given_out if n]) == len(sizes) - (rest is not None)
    full = sizes[: len(sizes) - (rest is not None)]
    assert all(later > one or later == window for one, later in pairwise(full))
    if first + before < window and first <= T:
        assert next(n for n in given_out if n) >= 0.75 * first
    assert all(size <= window for size in sizes)


def test_no_frame_waits_for_more_than_a_window():
    windows, given_out = Windows(lambda beside: lambda x, time: x, FineSampling(steps=2), 9, 2), 0
    for i in range(1, 41):
        given_out += windows.push(torch.zeros(1, 1, 1), torch.zeros(1, 1, 2, 1)).shape[-1]
        assert i - given_out < 9
    assert given_out + windows.finish().shape[-1] == 40


def test_given_frames_stand_before():
    """The window begins with the given fine frames: a denoiser that looks back hears them."""
    coarse = torch.zeros(1, 3, 4)
    given = torch.zeros(1, 3, 5), torch.full((1, 2, 5), 2.0)
    other = given[0], -given[1]
    found = [drawn(coarse, "ddim", 4, 20, 3, (3, 0), past) for past in (given, other)]
    assert found[0].shape == (1, 2, 4) and (found[0] - found[1]).abs()[..., 0].min() > 0.1


@pytest.mark.parametrize(
    "changes", [{"sampler": "dpm"}, {"steps": 0}, {"guidance": math.nan}, {"window": 2.0, "overlap": 1.0}]
)
def test_settings_that_cannot_be(changes):
    with pytest.raises(UserError):
        FineSampling(**changes)
