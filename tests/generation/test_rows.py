"""Several generations in one batch: each makes what it makes alone."""

import copy
import time
from itertools import islice

import pytest
import torch
from tiny import PATTERNS, make_lm, make_text

from ostinato.generation.rows import AHEAD, Rows, sizes_of, step_together
from ostinato.generation.sampling import Sampling, begin, generate_frames
from ostinato.models.layout import outputs_last
from ostinato.models.lm import VARIANTS

EMPTY = make_text(1, seed=99)


def generation(lm, seed, length=4, before=0, **changes):
    settings = Sampling(**{"guidance": 2.0, "temperature": 2.0, "top_k": 6, "top_p": 0.98} | changes)
    codes = torch.randint(0, 7, (1, lm.config.num_codebooks, before), generator=torch.Generator().manual_seed(seed))
    dtype = lm.norm.weight.dtype
    text, empty = make_text(length, seed=seed, dtype=dtype), make_text(1, seed=99, dtype=dtype)
    return begin(lm, text, empty, settings, [seed], codes)


def take(frames, count):
    return torch.stack(list(islice(frames, count)), 2)


@pytest.mark.parametrize(("K", "pattern"), PATTERNS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_whoever_comes_and_goes_hears_what_is_heard_alone(variant, K, pattern):
    """Other texts, seeds, settings, beginnings and times: the codes of `generate_frames`, for every variant. Those with
    caches of other lengths take turns."""
    lm = make_lm(variant, K, pattern)
    asked = [{"seed": 1}, {"seed": 2, "length": 3, "guidance": 1.0}, {"seed": 3, "temperature": 0.0, "before": 2}]
    wanted = [take(generate_frames(lm, generation(lm, **each)), 30) for each in asked]
    rows = Rows()
    first = rows.frames(lm, generation(lm, **asked[0]))
    found = [take(first, 5)]
    second, third = (rows.frames(lm, generation(lm, **each)) for each in asked[1:])
    found.append(take(second, 30))
    del second
    found += [take(third, 30)]
    found[0] = torch.cat([found[0], take(first, 25)], 2)
    for got, right in zip(found, wanted, strict=True):
        assert torch.equal(got, right)


def test_whoever_listens_beside_changes_no_bit():
    """In float32, too: a state beside any others, anywhere among them, is that of a generation that is there alone. Of
    sizes as those that ship, multiples of a vector of the processor's: what is left over of others rounds otherwise."""
    lm = make_lm(dtype=torch.float32, width=128, codebook_size=32, state=16, head_width=16, feed_forward=256)
    outputs_last(lm)
    alone = generation(lm, 0)
    others = [generation(lm, seed, length=2) for seed in range(1, 6)]
    wanted = step_together(lm, [alone], 20)[0]
    for count, at in ((1, 0), (1, 1), (2, 1), (5, 3)):
        own, beside = generation(lm, 0), [copy.deepcopy(other) for other in others[:count]]
        found = step_together(lm, [*beside[:at], own, *beside[at:]], 20)[at]
        assert torch.equal(torch.stack(found), torch.stack(wanted))
        for name, t in own.state.tensors().items():
            assert torch.equal(t, alone.state.tensors()[name]), name
    single, same = generation(lm, 0), generation(lm, 0)
    found = step_together(lm, [single], 20, least=1)[0]
    assert torch.equal(torch.stack(found, 2), take(generate_frames(lm, same), 20))
    for name, t in same.state.tensors().items():
        assert torch.equal(t, single.state.tensors()[name]), name


def test_rows_do_not_run_away_and_end_with_their_listeners():
    lm, rows = make_lm(), Rows()
    mine = generation(lm, 0)
    frames = rows.frames(lm, mine)
    next(frames)
    deadline = time.monotonic() + 60
    while len(rows.rows[0].frames) < AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert AHEAD <= len(rows.rows[0].frames) <= AHEAD + 5 and mine.done <= AHEAD + 6
    thread = rows.thread
    del frames
    thread.join(60)
    assert not rows.rows and not thread.is_alive()
    assert next(rows.frames(lm, generation(lm, 1))).shape == (1, 1)  # and it begins again


def test_an_error_reaches_those_who_listen():
    lm, rows = make_lm(), Rows()
    broken = generation(lm, 0)
    broken.recent += 1000  # codes that there are none of
    with pytest.raises(IndexError):
        next(rows.frames(lm, broken))
    assert next(rows.frames(lm, generation(lm, 1))).shape == (1, 1)


def test_only_what_is_alike_steps_together():
    lm = make_lm("cross-transformer")
    a, b = generation(lm, 0, before=2), generation(lm, 1, before=3)
    assert sizes_of(a) == sizes_of(generation(lm, 2, before=2)) != sizes_of(b)
