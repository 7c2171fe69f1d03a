"""Streams that change course: turns are takes, memory is bounded, files say what made them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_model

import ostinato
from ostinato.generation.recipe import Recipe, from_tags, model_id
from ostinato.generation.streaming import HANDOVER, MEMORY, PIECE, REACH, early
from ostinato.utils.audio import read_audio, read_tags, write_audio
from ostinato.utils.errors import UserError

MODEL = make_model()
HOP = MODEL.codec.hop


def take(stream, samples):
    """The first `samples` of a stream, as a player has them who puts each piece at its position."""
    out = torch.zeros(1, samples)
    while stream.position < samples:
        at, piece = stream.position, next(stream)
        out[:, at : at + piece.shape[-1]] = piece[:, : samples - at]
    return out


@pytest.fixture(scope="module")
def pocket():
    return ostinato.load()


@pytest.mark.slow
@given(seconds=st.floats(0.02, 3), given_frames=st.integers(0, 40))
@settings(max_examples=8, deadline=None)
def test_a_stream_is_the_clip(seconds, given_frames):
    codes = torch.randint(32, (3, given_frames), generator=torch.Generator().manual_seed(1)) if given_frames else None
    clip = MODEL.generate("a tune", seconds, seed=3, continue_from=codes)
    found = torch.cat(list(MODEL.play("a tune", 3, continue_from=codes, seconds=seconds)), -1)
    torch.testing.assert_close(found, clip.audio, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@given(
    turns=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["louder", "slower"]), st.integers(0, 3)), max_size=4),
    lead=st.integers(-30, 60),
    given_frames=st.integers(0, 20),
)
@settings(max_examples=8, deadline=None)
def test_a_take_is_its_turns(turns, lead, given_frames):
    """Played with changes while it goes on, some into what was given out already; made again from its recipe; the same
    samples wherever no later change took them back."""
    codes = torch.randint(32, (3, given_frames), generator=torch.Generator().manual_seed(1)) if given_frames else None
    stream, out = MODEL.play("a tune", 5, continue_from=codes), torch.zeros(1, 200 * HOP * PIECE)
    for pieces, prompt, seed in turns:
        for _ in range(pieces):
            at, piece = stream.position, next(stream)
            out[:, at : at + piece.shape[-1]] = piece
        at = max(0, stream.position + lead * HOP)
        stream.steer(prompt, at) if seed == 0 else stream.reseed(seed, at)
    end = stream.position + 4 * PIECE * HOP
    while stream.position < end:
        at, piece = stream.position, next(stream)
        out[:, at : at + piece.shape[-1]] = piece
    recipe = Recipe("small", model_id(MODEL), tuple(stream.turns), MODEL.sampling, before=codes)
    again = Recipe.from_json(recipe.to_json()).stream(MODEL)
    assert torch.equal(take(again, end), out[:, :end])
    assert again.turns == stream.turns


@torch.no_grad()
def test_a_turn_continues_from_the_state_itself():
    """With another seed and the same words, what follows is what the recurrent state gives: nothing was forgotten."""
    stream = MODEL.play("a tune", 0)
    for _ in range(6):
        next(stream)
    stream.reseed(7)
    frame = stream.turns[-1].frame
    codes = stream.codes[..., :frame].clone()
    generation = MODEL.begin(["a tune"], 7, None, codes)
    stepped = MODEL.begin(["a tune"], 7)
    logits = None
    for t in range(frame + 2):  # the delay pattern, step by step
        step = torch.full((1, 3), MODEL.lm.special)
        for k in range(3):
            if 0 <= t - 1 - k < frame:
                step[:, k] = codes[:, k, t - 1 - k]
        if t == frame:
            before = copy.deepcopy(stepped.state)
            stepped_logits = MODEL.lm.step(step.repeat(2, 1), before)
            logits = MODEL.lm.step(generation.recent[:, :, -1].repeat(2, 1), copy.deepcopy(generation.state))
            torch.testing.assert_close(logits, stepped_logits, atol=1e-4, rtol=1e-3)
        MODEL.lm.step(step.repeat(2, 1), stepped.state)
    assert logits is not None


def test_another_sentence_hears_only_the_last_moments(monkeypatch):
    """More of the music outweighs the sentence; the same sentence with another seed hears all that a turn reads."""
    begin, read = type(MODEL).begin, []

    def spy(self, prompts, seed=0, settings=None, continue_from=None, texts=None):
        read.append(continue_from.shape[-1])
        return begin(self, prompts, seed, settings, continue_from, texts)

    monkeypatch.setattr(type(MODEL), "begin", spy)
    stream = MODEL.play("a tune", 0)
    for _ in range(6):
        next(stream)
    frame = stream.reseed(1).frame
    stream.steer("zzz")
    assert read == [0, frame, round(HANDOVER * MODEL.codec.frame_rate)] and frame > read[-1]


def test_steering_changes_what_comes_and_nothing_before():
    plain, steered = MODEL.play("a tune", 0), MODEL.play("a tune", 0)
    for _ in range(5):
        next(plain), next(steered)
    turn = steered.steer("zzz", at=steered.position + 10 * HOP)
    a, b = take(plain, 100 * HOP), take(steered, 100 * HOP)
    safe = (turn.frame - MODEL.codec.lookahead) * HOP
    at = steered.position
    assert at and torch.equal(a[:, 5 * PIECE * HOP : safe], b[:, 5 * PIECE * HOP : safe])
    assert not torch.allclose(a[:, turn.frame * HOP :], b[:, turn.frame * HOP :], atol=1e-3)


def test_a_fork_leaves_the_other_as_it_was():
    stream, alone = MODEL.play("a tune", 0), MODEL.play("a tune", 0)
    for _ in range(3):
        next(stream), next(alone)
    fork = stream.fork(9)
    heard = [next(fork) for _ in range(8)]
    for _ in range(8):
        assert torch.equal(next(stream), next(alone))
    assert any(not torch.equal(piece, next(alone)) for piece in heard)


@pytest.mark.slow
def test_an_hour_needs_no_more_memory_than_a_minute():
    stream = MODEL.play("a tune", 0)
    most = round((REACH + MEMORY) * MODEL.codec.frame_rate) + 2 * (PIECE + MODEL.codec.context)
    sizes = set()
    for i in range(270):
        next(stream)
        assert stream.codes.shape[-1] == stream.inputs.shape[-1] <= most
        if i > 220:
            sizes.add(stream.codes.shape[-1])
    assert len(sizes) <= PIECE
    with pytest.raises(UserError, match="a turn must be at a frame"):
        stream.turn(type(stream.turns[0])(0, "too late", 0))
    stream.steer("later", at=0)  # as early as is possible
    next(stream)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_file_says_what_made_it(tmp_path, suffix):
    codes = torch.randint(32, (3, 700))
    turn = type(MODEL.play("x").turns[0])
    turns = (turn(700, 'a "tune" — für Élise', 3), turn(750, "louder", 4))
    recipe = Recipe("small", model_id(MODEL), turns, MODEL.sampling, frames=90, samples=14000, before=codes)
    path = tmp_path / f"x.{suffix}"
    write_audio(path, torch.zeros(1, 800), 8000, recipe.tags())
    found = from_tags(read_tags(path))
    assert found is not None and found.to_json() == recipe.to_json() and read_tags(path)["title"] == "louder"
    assert torch.equal(found.before, codes)
    write_audio(path, torch.zeros(1, 800), 8000, {"title": "another program's"})
    assert from_tags(read_tags(path)) is None and read_audio(path, 8000).shape == (1, 800)


@pytest.mark.parametrize(
    "broken",
    [{}, {"turns": []}, {"turns": 3}, {"turns": [{"frame": 0}]}, {"before": "3:!!"}, {"samples": -1}, {"samples": "9"}]
    + [{"sampling": {"guidance": "much"}}, {"turns": [{"frame": 0, "prompt": "x", "seed": -4}]}],
)
def test_broken_recipes_are_refused_in_words(broken):
    whole = Recipe("small", "id", tuple(MODEL.play("x").turns), MODEL.sampling).to_json()
    with pytest.raises(UserError):
        Recipe.from_json(whole | broken if broken else {})


@pytest.mark.slow
def test_two_stages_are_steered_and_made_again(pocket):
    """The model that ships, whose fine stage works in windows: a short first one gives sound early."""
    fine, told = early(pocket), []
    assert fine.first < fine.window / 2
    stream = pocket.play("a slow organ", 0, fine=fine, on_frame=lambda done, _: told.append(done))
    first = next(stream)
    assert told[-1] == round(fine.first * pocket.codec.frame_rate) and first.shape[-1] == PIECE * pocket.codec.hop
    turn = stream.steer("fast drums", at=30 * pocket.codec.hop)
    end = stream.position + 2 * PIECE * pocket.codec.hop
    assert turn.frame == 30
    heard = torch.cat([first[:, : stream.position], take_on(stream, end)], -1)
    recipe = Recipe("pocket", model_id(pocket), tuple(stream.turns), pocket.sampling, fine)
    assert torch.equal(take(Recipe.from_json(recipe.to_json()).stream(pocket), end), heard)


def take_on(stream, end):
    """From its position on, up to sample `end`."""
    pieces, at = [], stream.position
    while stream.position < end:
        pieces.append(next(stream))
    return torch.cat(pieces, -1)[:, : end - at]
