import copy
import dataclasses
import json
import math
import os
import random
import shutil
import signal
import sys
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import CAPTIONS, CPU, SMALL, assert_same_checkpoint, codec_run, lively, lm_run, log_of, strange_store
from safetensors.torch import load_file
from tiny import PATTERNS, POCKET, make_codec, make_lm, make_text, melody

from ostinato.codecs.base import fingerprint
from ostinato.codecs.load import load_codec
from ostinato.data.prepare import open_store, prepare
from ostinato.generation.pipeline import load
from ostinato.generation.sampling import Sampling
from ostinato.models.lm import IGNORED, LMConfig, MusicLM
from ostinato.models.lora import adapt
from ostinato.models.patterns import make_pattern
from ostinato.models.text_encoder import CachedTextEncoder, load_text_encoder
from ostinato.training.batch_order import make_loader, sample_order, seed_of
from ostinato.training.checkpoint import checkpoints
from ostinato.training.codec_task import CodecTask
from ostinato.training.codes_task import CodeDataset
from ostinato.training.config import Optimisation, load_run
from ostinato.training.flops import step_flops
from ostinato.training.lm_task import LMTask, make_batch
from ostinato.training.muon import FloatMuon, orthogonal
from ostinato.training.optimizer import learning_rate, optimizers_for
from ostinato.training.trainer import train
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow


def test_learning_rate_by_hand():
    hyper = Optimisation(steps=12, warmup=4, learning_rate=1e-3, final_learning_rate=1e-4)
    wanted = {0: 2.5e-4, 1: 5e-4, 3: 1e-3, 4: 1e-3, 6: 8.681981e-4, 8: 5.5e-4, 10: 2.318019e-4, 12: 1e-4, 20: 1e-4}
    for step, rate in wanted.items():
        assert learning_rate(step, hyper) == pytest.approx(rate, rel=1e-6), step
    assert learning_rate(0, Optimisation(warmup=0, steps=1)) == 1e-4
    assert [learning_rate(s, Optimisation()) for s in (0, 99, 100)] == pytest.approx([1e-6, 1e-4, 1e-4])  # the paper's
    assert learning_rate(100_000, Optimisation()) == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(st.data())
def test_order_of_the_clips(data):
    size, batch, world = (data.draw(st.integers(1, top)) for top in (20, 5, 3))
    seed, first = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 30))

    def ranks(start, count):
        """[count][world][batch] from micro-batch `start` on."""
        orders = [list(islice(sample_order(size, batch, seed, start, r, world), count)) for r in range(world)]
        return [list(micro) for micro in zip(*orders, strict=True)]

    count = math.ceil(3 * size / (batch * world)) + 1
    whole = ranks(0, first + count)
    assert ranks(first, count) == whole[first:]  # begun anywhere, it goes on the same
    flat = [clip for micro in whole for part in micro for clip in part]
    assert all(len(part) == batch for micro in whole for part in micro)
    passes = [flat[i : i + size] for i in range(0, len(flat) - size + 1, size)]
    assert len(passes) >= 3 and all(sorted(one) == list(range(size)) for one in passes)  # over all ranks together
    if size > 12:
        assert passes[0] != passes[1] and passes[0] != list(range(size))
        assert next(sample_order(size, size, seed + 1, 0, 0, 1)) != passes[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_losses_by_hand(pattern, smoothing):
    """Cross-entropy with the smoothed share spread evenly over all V, summed where a code stands; computed twice or
    once, it has the same gradients."""
    torch.manual_seed(0)
    lm = make_lm("prefix-simba", *pattern, dropout=0.0).train()
    clips = [(torch.randint(lm.special, (lm.config.num_codebooks, T)), "") for T in (5, 2)]
    inputs, targets, _ = make_batch(clips, lm.pattern, lm.special)
    text = make_text(3, 3)
    logs = lm(inputs, *text).log_softmax(-1)
    wanted = []
    for k in range(lm.config.num_codebooks):
        rows = [(logs[b, k, s], t) for b in range(2) for s, t in enumerate(targets[b, k].tolist()) if t != IGNORED]
        assert len(rows) == 7
        wanted.append(sum(-(1 - smoothing) * row[t] - smoothing * row.mean() for row, t in rows))
    gradients = []
    for lm.checkpointing in (False, True):
        losses = lm(inputs, *text, targets, smoothing)
        assert losses.tolist() == pytest.approx([w.item() for w in wanted], rel=1e-5)
        gradients.append(torch.autograd.grad(losses.sum(), list(lm.lm_head.parameters())))
    by_hand = torch.autograd.grad(sum(wanted), list(lm.lm_head.parameters()))
    for once, twice, hand in zip(*gradients, by_hand, strict=True):
        assert torch.equal(once, twice)
        torch.testing.assert_close(once, hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "K"), [("single", 1), ("delay", 3), ("flatten", 2)])
def test_batches_of_clips_of_any_lengths(name, K):
    """Inputs are the targets one step later, after a special step; where no code of the clip stands nothing counts."""
    pattern, special = make_pattern(name, K), 50
    clips = [torch.randint(special, (K, T), generator=torch.Generator().manual_seed(T)) for T in (7, 3, 1)]
    inputs, targets, captions = make_batch([(codes, str(i)) for i, codes in enumerate(clips)], pattern, special)
    assert captions == ["0", "1", "2"] and inputs.shape == targets.shape == (3, K, pattern.length(7))
    assert (inputs[:, :, 0] == special).all()
    assert torch.equal(inputs[:, :, 1:], targets[:, :, :-1].masked_fill(targets[:, :, :-1] == IGNORED, special))
    for row, codes in zip(targets, clips, strict=True):
        assert torch.equal(pattern.decode(row[None])[0, :, : codes.shape[1]], codes)
        assert (row != IGNORED).sum() == codes.numel()


def test_decay_is_for_matrices():
    lm = MusicLM(LMConfig(**SMALL))
    [adamw] = optimizers_for(lm, Optimisation(weight_decay=0.3))
    decayed, plain = adamw.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in lm.named_parameters()}
    found = {names[id(p)] for p in plain["params"]}
    assert len(found) + len(decayed["params"]) == len(names)
    assert {name.rpartition(".")[2] for name in found} == {"bias", "weight", "dt_bias", "A_log", "D"}
    assert all("norm" in name for name in found if name.endswith("weight"))


def test_muon_is_for_the_matrices_within_blocks():
    lm = MusicLM(LMConfig(**SMALL))
    muon, adamw = optimizers_for(lm, Optimisation(optimizer="muon", betas=(0.8, 0.9), weight_decay=0.3))
    names = {id(p): name for name, p in lm.named_parameters()}
    inner, rest = ({names[id(p)] for group in o.param_groups for p in group["params"]} for o in (muon, adamw))
    assert inner | rest == set(names.values()) and not inner & rest
    assert all(name.endswith(("proj.weight", "up.weight", "down.weight", "linear.weight")) for name in inner)
    assert {name for name in rest if name.startswith(("embedding", "lm_head"))}
    assert (muon.defaults["momentum"], muon.defaults["weight_decay"]) == (0.8, 0.3)
    assert isinstance(muon, FloatMuon)  # but where the processor is said to have bfloat16
    assert not isinstance(optimizers_for(lm, Optimisation(optimizer="muon", precision="bf16"))[0], FloatMuon)


def test_muon_in_float32_is_pytorchs():
    """Up to the bfloat16 of PyTorch's own, over steps, for wide and tall matrices, from its state."""
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(m, n)) for m, n in ((24, 64), (64, 24))] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    one, other = FloatMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step(), other.step()
        one.load_state_dict(copy.deepcopy(other.state_dict()))
    for p, q in zip(ours, theirs, strict=True):
        assert (p - q).norm() < 0.02 * (q - 1).norm()
    about = one.param_groups[0]
    found = orthogonal(torch.randn(64, 24), about["ns_coefficients"], about["ns_steps"], about["eps"])
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.4


def test_muon_resumes(stores, tmp_path):
    train_ = {"optimizer": "muon", "steps": 6, "checkpoint_every": 3, "keep": 9, "betas": (0.9, 0.95)}
    straight = train(lm_run(stores, tmp_path / "straight", train=train_))
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / straight.name)
    assert_same_checkpoint(train(lm_run(stores, tmp_path / "run", train=train_)), straight)
    with pytest.raises(UserError, match=r"train.optimizer: muon → adamw"):
        train(lm_run(stores, tmp_path / "run", train=train_ | {"optimizer": "adamw"}))


def test_a_decoder_alone_is_trained(stores, tmp_path):
    """The codes stay, bit for bit; what they sound like does not."""
    first = train(codec_run(stores, tmp_path / "whole"))
    run = dataclasses.replace(codec_run(stores, tmp_path / "decoder"), init=str(first), decoder_only=True)
    was, now = load_codec(first), load_codec(train(run))
    audio = torch.from_numpy(melody(1, (0, 5, 9), seed=4)).float()[None, None]
    codes = was.encode(audio)
    assert fingerprint(was) == fingerprint(now) and torch.equal(codes, now.encode(audio))
    assert (was.decode(codes) - now.decode(codes)).abs().max() > 1e-4
    for words, other in {
        "True → False": run,
        "say of which with --init": codec_run(stores, tmp_path / "no-init"),
    }.items():
        with pytest.raises(UserError, match=f"decoder_only.*{words}"):
            train(dataclasses.replace(other, decoder_only=other is not run))


def test_a_codec_stopped_within_a_step_is_not_saved(stores, tmp_path, monkeypatch):
    """Its entries move as it listens: after the first of two micro-batches they are no longer those of a step."""
    real, calls = CodecTask.backward, []

    def failing(task, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise UserError("no clip any more")
        return real(task, *arguments)

    monkeypatch.setattr(CodecTask, "backward", failing)
    with pytest.raises(UserError, match=r"no clip any more$"):
        train(codec_run(stores, tmp_path, train={"accumulation": 2}))
    assert not checkpoints(tmp_path)


def test_crops_and_captions(stores):
    """Any stretch of a clip, any of its captions, and the empty one at the rate asked; none of it when held out."""
    store = open_store(stores / "codes").split("train")
    clips, torch_state = CodeDataset(store, 2, 90, text_dropout=0.25), torch.get_rng_state()
    whole = store.codes(0)[:2]
    starts, dropped = Counter(), 0
    for _ in range(600):
        codes, caption = clips[0]
        (start,) = [s for s in range(11) if torch.equal(codes, whole[:, s : s + 90])]
        starts[start] += 1
        dropped += caption == ""
        assert caption in ("", CAPTIONS[store.row(0)["path"]])
    assert sorted(starts) == list(range(11)) and min(starts.values()) > 25
    assert 110 < dropped < 190
    assert torch.equal(torch.get_rng_state(), torch_state)
    fixed = CodeDataset(store, 3, 90, text_dropout=1.0, fixed=True)
    assert torch.equal(fixed[1][0], store.codes(1)[:, :90]) and fixed[1][1] == CAPTIONS[store.row(1)["path"]]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_text_dropout_is_the_empty_caption(stores, tmp_path, monkeypatch, share):
    seen, original = [], CachedTextEncoder.__call__

    def noted(encoder, captions):
        seen.extend(captions)
        return original(encoder, captions)

    monkeypatch.setattr(CachedTextEncoder, "__call__", noted)
    monkeypatch.setattr(LMTask, "validate", lambda task, accelerator: {"loss": 1.0})
    train(lm_run(stores, tmp_path / "run", text_dropout=share))
    assert set(seen) == ({""} if share else set(CAPTIONS.values())) and len(seen) == 8


@pytest.mark.parametrize(
    ("variant", "K", "pattern"), [("prefix-simba", 3, "delay"), ("cross-transformer", 1, "single")]
)
def test_what_was_learnt_by_heart_comes_back(stores, tmp_path, variant, K, pattern):
    """All the way: audio, codes, training, checkpoint folder, and by greedy sampling each caption gives its clip."""
    sizes = {"variant": variant, "num_codebooks": K, "pattern": pattern, "width": 64, "blocks": 2, "dropout": 0.0}
    hyper = {"steps": 600, "learning_rate": 4e-3, "final_learning_rate": 1e-4, "warmup": 20, "checkpoint_every": 1000}
    run = lm_run(stores, tmp_path, sizes, hyper, label_smoothing=0.0, text_dropout=0.0)
    train(run)
    model, store = load(tmp_path), open_store(stores / "codes").split("train")
    kept = [store.codes(i)[:K] for i in range(2)]
    assert all(len(codes[-1].unique()) > 8 for codes in kept)  # no monotony
    assert (kept[0] != kept[1]).float().mean() > 0.5
    captions = [store.captions(i)[0] for i in range(2)]
    clips = model.generate(captions, seconds=2.0, settings=Sampling(guidance=1.0, temperature=0.0))
    # After the clip's last frame training saw special tokens, and generation draws a further frame: the few codes that
    # stand after that step are not among what was learnt.
    steps = torch.arange(100) + torch.arange(K)[:, None]
    for clip, codes in zip(clips, kept, strict=True):
        same = clip.codes == codes
        assert same[steps <= 100].all(), f"{clip.prompt}: {same.float().mean():.3f} of it"


def test_accumulation_is_a_larger_batch(stores, tmp_path):
    calm = {"model": {"dropout": 0.0}, "text_dropout": 0.0}
    folders = [
        train(lm_run(stores, tmp_path / f"{batch}", train={"batch": batch, "accumulation": 2 // batch}, **calm))
        for batch in (1, 2)
    ]
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    torch.manual_seed(0)
    fresh = MusicLM(lm_run(stores, tmp_path, **calm).model).state_dict()
    moved = max((fresh[name] - two[name]).abs().max().item() for name in two)
    apart = max((one[name] - two[name]).abs().max().item() for name in two)
    assert moved > 5e-3 and apart < 1e-3 * moved + 1e-4
    assert [line["step"] for line in log_of(tmp_path / "1")] == [1, 2, 3, 4]
    rates = [line["learning_rate"] for line in log_of(tmp_path / "1")]
    assert rates == pytest.approx([1.5e-3, 3e-3, 3e-3, 3e-3])  # by optimizer step, not by micro-batch


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_is_uninterrupted(stores, tmp_path, workers):
    """And whether worker processes read the clips makes no difference either."""
    straight = train(lively(stores, tmp_path / "straight"))
    half = train(lively(stores, tmp_path / "halves", steps=4, workers=workers))
    assert half.name == "step-0000004" and straight.name == "step-0000008"
    whole = train(lively(stores, tmp_path / "halves", workers=workers))
    assert_same_checkpoint(whole, straight)
    first, again = (log_of(tmp_path / name) for name in ("straight", "halves"))
    assert [line["loss"] for line in first] == [line["loss"] for line in again]
    assert train(lively(stores, tmp_path / "halves", workers=workers)) == whole  # all done: nothing happens
    assert [p.name for p in checkpoints(tmp_path / "halves")] == ["step-0000004", "step-0000008"]
    assert sorted(p.name for p in (tmp_path / "halves" / "samples").rglob("*.wav")) == 2 * ["0-a-tune.wav"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_goes_on(stores, tmp_path, monkeypatch, number):
    straight = train(lively(stores, tmp_path / "straight"))
    original, calls = LMTask.backward, []

    def interrupting(task, *arguments):
        calls.append(1)
        if len(calls) == 5:  # in the third step
            os.kill(os.getpid(), number)
        return original(task, *arguments)

    before = signal.getsignal(number)
    monkeypatch.setattr(LMTask, "backward", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(lively(stores, tmp_path / "run"))
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000003"] and len(calls) == 6
    assert signal.getsignal(number) is before
    assert_same_checkpoint(train(lively(stores, tmp_path / "run")), straight)


def test_fresh_starts_over_and_old_checkpoints_go(stores, tmp_path):
    run = lm_run(stores, tmp_path, train={"steps": 5, "checkpoint_every": 1, "keep": 2})
    first = train(run)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000004", "step-0000005"]
    kept = load_file(first / "model.safetensors")
    for name in "step-0000005 good", "damaged-step-0000003", "diverged-0000009":
        shutil.copytree(first, tmp_path / name)
    again = train(run, fresh=True)
    assert sorted(p.name for p in tmp_path.glob("*-*")) == ["step-0000004", "step-0000005", "step-0000005 good"]
    assert all(torch.equal(t, kept[name]) for name, t in load_file(again / "model.safetensors").items())
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5]  # the old curve is gone
    for bad, words in ((str(again), "--fresh would delete"), ("", "no store at")):  # nothing is deleted for these
        with pytest.raises(UserError, match=words):
            train(dataclasses.replace(run, init=bad, data=run.data if bad else str(tmp_path / "absent")), fresh=True)
    assert checkpoints(tmp_path)[-1] == again


def test_what_does_not_fit_is_refused(stores, tmp_path):
    train(lm_run(stores, tmp_path / "run", train={"steps": 1}))
    other = tmp_path / "other-codec"
    make_codec(seed=9).save_pretrained(other)
    for store, codec_id in (("other", fingerprint(load_codec(other))), ("stale", "0" * 16)):
        asked = {"clip_seconds": 2.0, "progress": False}
        prepare(stores / "music", tmp_path / store, load_codec(other), str(other), codec_id, **asked)
    file = tmp_path / "file"
    file.write_text("")
    cases = {
        "--fresh": lm_run(stores, tmp_path / "run", {"width": 64}),
        "was trained on other clips.*--init": dataclasses.replace(
            lm_run(stores, tmp_path / "run", train={"steps": 2}), data=str(tmp_path / "other")
        ),
        "was written with codec 0{16}": dataclasses.replace(
            lm_run(stores, tmp_path / "s"), data=str(tmp_path / "stale")
        ),
        "holds audio": dataclasses.replace(lm_run(stores, tmp_path / "a"), data=str(stores / "audio")),
        "needs 4 codebooks of 32": lm_run(stores, tmp_path / "b", {"num_codebooks": 4}),
        "needs 3 codebooks of 64": lm_run(stores, tmp_path / "c", {"codebook_size": 64}),
        "set model.text_width=384": lm_run(stores, tmp_path / "d", {"text_width": 768}),
        "no store at": dataclasses.replace(lm_run(stores, tmp_path / "e"), data=str(tmp_path / "absent")),
        "cannot be written": lm_run(stores, file / "run"),
        "holds codes": dataclasses.replace(codec_run(stores, tmp_path / "f"), data=str(stores / "codes")),
        "--sample-rate 16000": codec_run(stores, tmp_path / "g", model=dataclasses.replace(POCKET, sample_rate=16000)),
    }
    for message, run in cases.items():
        with pytest.raises(UserError, match=message) as error:
            train(run)
        assert "\n" not in str(error.value)
    assert checkpoints(tmp_path / "run")[-1].name == "step-0000001"


def test_divergence_is_told_and_nothing_is_saved(stores, tmp_path, monkeypatch):
    whole = MusicLM.losses

    def failing(*inputs):
        return whole(*inputs) * (float("nan") if len(seen) == 6 else 1)

    seen, original = [], LMTask.backward

    def noted(task, accelerator, batch, *rest):
        seen.append(sorted(batch[2]))
        return original(task, accelerator, batch, *rest)

    monkeypatch.setattr(LMTask, "backward", noted)
    monkeypatch.setattr(MusicLM, "losses", failing)
    run = lively(stores, tmp_path / "run", checkpoint_every=1, validate_every=100)
    run = dataclasses.replace(run, text_dropout=0.0, prompts=())
    with pytest.raises(UserError, match=r"diverged at step 2: .*diverged-0000002, step-0000002 is good.*learning_rate"):
        train(run)
    folder = tmp_path / "run" / "diverged-0000002"
    told = json.loads((folder / "training.json").read_text())["diverged"]
    store = open_store(stores / "codes").split("train")
    for micro, captions in zip(told["clips"], seen[4:6], strict=True):
        assert sorted(store.captions(clip["number"])[0] for clip in micro) == captions
        assert all(store.row(clip["number"])["id"] == clip["id"] for clip in micro)
    assert told["step"] == 2 and len(told["seeds"]) == 2
    last = load_file(tmp_path / "run" / "step-0000002" / "model.safetensors")
    assert all(torch.equal(t, last[name]) for name, t in load_file(folder / "model.safetensors").items())
    seen.append("the batch is good now")
    assert train(run).name == "step-0000008"


def test_weights_that_are_not_finite_are_no_checkpoint(stores, tmp_path, monkeypatch):
    original = torch.optim.AdamW.step

    def overflowing(optimizer):
        original(optimizer)
        if len(checkpoints(tmp_path)) == 2:
            next(p for group in optimizer.param_groups for p in group["params"]).data.view(-1)[3] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", overflowing)
    with pytest.raises(UserError, match=r"diverged at step 2: a weight.*step-0000002 is good"):
        train(lm_run(stores, tmp_path, train={"checkpoint_every": 1}))
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000001", "step-0000002"]


def test_validation_is_the_mean_over_held_out_clips(stores, tmp_path):
    folder = train(lm_run(stores, tmp_path))
    lm, held = load(folder).lm, open_store(stores / "codes").split("validation")
    (found,) = log_of(tmp_path, "validation")
    inputs, targets, captions = make_batch([(held.codes(0), held.captions(0)[0])], lm.pattern, lm.special)
    with torch.no_grad():
        losses = lm(inputs, *load_text_encoder("minilm")(captions), targets)
    wanted = losses / (targets != IGNORED).sum((0, 2))
    assert found["loss"] == pytest.approx(wanted.mean().item(), abs=2e-3)
    assert [found[f"codebook_{k}"] for k in range(3)] == pytest.approx(wanted.tolist(), abs=2e-3)


def test_all_data_is_trained_on(stores, tmp_path, capfd):
    """As in the paper: the validation split, too, and then nothing validates; the test split stays out."""
    folder = train(lm_run(stores, tmp_path / "run", train={"all_data": True, "steps": 1, "validate_every": 1}))
    assert "all data is trained on, so there will be no validation loss" in capfd.readouterr().err
    assert not log_of(tmp_path / "run", "validation")
    told = json.loads((folder / "training.json").read_text())
    assert told["data"]["clips"] == 3 and told["score"] is None
    store = open_store(stores / "codes")
    every, none = store.sides(all_data=True)
    assert {every.row(i)["path"] for i in range(3)} == {"rise.wav", "fall.ogg", "held.wav"} and not len(none)
    assert CodecTask(codec_run(stores, tmp_path, train={"all_data": True}), CPU).data.store.digest() == (
        open_store(stores / "audio").digest()
    )


def test_codec_trains_against_its_adversary_and_resumes(stores, tmp_path):
    straight = train(codec_run(stores, tmp_path / "straight", train={"ema": 0.9}))
    lines = log_of(tmp_path / "straight")
    assert ["adversarial" in line for line in lines] == [False, True, True, True]
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    train(codec_run(stores, tmp_path / "halves", train={"steps": 2, "ema": 0.9}))
    assert_same_checkpoint(train(codec_run(stores, tmp_path / "halves", train={"ema": 0.9})), straight)
    with pytest.raises(UserError, match="--fresh"):
        train(codec_run(stores, tmp_path / "halves", model=dataclasses.replace(POCKET, depth=2)))
    codec = load_codec(straight)
    assert codec.encode(torch.zeros(1, 1, 8000)).shape == (1, 3, 50)


def test_codec_wants_clips_and_one_process(stores, tmp_path, monkeypatch):
    (tmp_path / "music").mkdir()
    sf.write(tmp_path / "music" / "a.wav", melody(2), 8000)
    (tmp_path / "music" / "a.json").write_text(json.dumps({"split": "validation"}))
    prepare(tmp_path / "music", tmp_path / "held", sample_rate=8000, clip_seconds=2.0, progress=False)
    with pytest.raises(UserError, match="no clips in its train split; add more files"):
        CodecTask(dataclasses.replace(codec_run(stores, tmp_path / "run"), data=str(tmp_path / "held")), CPU)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for processes in 1, 2:
        monkeypatch.setattr("torch.distributed.get_world_size", lambda n=processes: n)
        if processes == 1:
            assert CodecTask(codec_run(stores, tmp_path / "run"), CPU)
        else:
            with pytest.raises(UserError, match="one process, and here are 2"):
                CodecTask(codec_run(stores, tmp_path / "run"), CPU)


def test_codec_validates_as_many_clips_as_asked(stores, tmp_path):
    """Also those shorter than a spectrum's window."""
    (tmp_path / "music").mkdir()
    sf.write(tmp_path / "music" / "a.wav", melody(1), 8000)
    sf.write(tmp_path / "music" / "held.wav", melody(3.5), 8000)
    (tmp_path / "music" / "captions.csv").write_text("path,split\na.wav,train\nheld.wav,validation\n")
    asked = {"clip_seconds": 0.25, "min_seconds": 0.25, "progress": False}
    prepare(tmp_path / "music", tmp_path / "store", sample_rate=8000, **asked)
    run = codec_run(stores, tmp_path / "run", train={"validation_clips": 8})
    task, seen = CodecTask(dataclasses.replace(run, data=str(tmp_path / "store")), CPU), []
    assert len(task.held_out) == 14
    encode = task.codec.encode
    task.codec.encode = lambda audio: seen.append(audio) or encode(audio)
    metrics = task.validate(SimpleNamespace(unwrap_model=lambda module: module))
    assert len(seen) == 8 and all(math.isfinite(value) for value in metrics.values())


def test_codec_learns(stores, tmp_path):
    """The mel distance falls, without the adversary, within a few dozen steps."""
    train(codec_run(stores, tmp_path, train={"steps": 40, "checkpoint_every": 100}, adversary_from=10**6))
    mel = [line["mel"] for line in log_of(tmp_path)]
    assert sum(mel[-5:]) < 0.7 * sum(mel[:5])


def test_everything_random_differs():
    """From step to step, micro-batch to micro-batch and clip to clip, not by who reads; and processes keep apart."""
    hyper = Optimisation(batch=4, accumulation=3)
    seeds = [seed_of(hyper, micro) for micro in range(40)]
    assert len({seed + rank for seed in seeds for rank in range(64)}) == 40 * 64

    class Drawn:
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return i, random.random()

    def read(batch, rank, world, step=0):
        loader = make_loader(Drawn(), list, dataclasses.replace(hyper, batch=batch), step, rank, world)
        return [clip for micro in islice(loader, 6) for clip in micro]

    whole = read(4, 0, 1)
    assert len({value for _, value in whole}) == 24
    halves = [read(2, rank, 2) for rank in range(2)]
    shared = [clip for i in range(0, 12, 2) for half in halves for clip in half[i : i + 2]]
    assert shared == whole and read(4, 0, 1, step=1)[:12] == whole[12:]


def test_a_run_begins_with_a_models_weights(stores, tmp_path):
    """Without a config, also; what says something else of the model is refused by name; a codec likewise."""
    first = train(lm_run(stores, tmp_path / "first"))
    quick = ["train.steps=1", "train.batch=2", "train.warmup=1", "train.learning_rate=1e-9", "clip_seconds=2"]
    given = {"init": str(tmp_path / "first"), "data": str(stores / "codes")}
    again = train(load_run(None, quick, given | {"output": str(tmp_path / "again")}))
    weights, kept = (load_file(folder / "model.safetensors") for folder in (again, first))
    assert all(torch.allclose(weights[name], kept[name], atol=1e-6) for name in kept)
    assert load_run(None, quick, given).output == "runs/codes"
    warm = load_run(None, [*quick, "sampling.temperature=0.5"], given | {"output": str(tmp_path / "warm")})
    assert load(train(warm)).sampling == Sampling(temperature=0.5)
    assert load_run(None, ["model.dropout=0.4"], given).model.dropout == 0.4
    for setting, words in {
        "model.width=64": "model.width is 64, there 32",
        "text=google/flan-t5-base": "text is 'google/flan-t5-base', there 'minilm'",
        "model.wdth=64": "did you mean 'width'",
    }.items():
        with pytest.raises(UserError, match=words):
            load_run(None, [setting], given)
    strange = given | {"data": str(strange_store(stores, tmp_path)), "output": str(tmp_path / "over")}
    with pytest.raises(UserError, match=r"prepare one with that, .* --codec .* --set codec="):
        train(load_run(None, quick, strange))
    unnamed = dataclasses.replace(load_run(None, quick, strange), codec="")
    shutil.copytree(tmp_path / "first", tmp_path / "moved")  # a model with another codec put in the place of its own
    folder = next((tmp_path / "moved").glob("step-*"))
    shutil.copytree(tmp_path / "other", folder / "codec", dirs_exist_ok=True)
    for run in (unnamed, load_run(None, quick, strange | {"init": str(tmp_path / "moved")})):
        with pytest.raises(UserError, match=r"was trained on codec .* to go over to that"):
            train(run)
    with pytest.raises(UserError, match="leave out lora 2"):
        train(load_run(None, [*quick, f"codec={tmp_path / 'other'}", "lora=2"], strange))
    over = load(train(load_run(None, [*quick, f"codec={tmp_path / 'other'}"], strange)))
    assert over.config["codec_id"] == fingerprint(load_codec(tmp_path / "other"))
    assert all(torch.allclose(p, kept[name], atol=1e-6) for name, p in over.lm.state_dict().items())

    (tmp_path / "codec.yaml").write_text("task: codec")
    codec = {"data": str(stores / "audio"), "output": str(tmp_path / "codec"), "init": str(tmp_path / "first")}
    trained = train(load_run(tmp_path / "codec.yaml", quick[:4], codec))
    wanted = load_file(stores / "codec" / "model.safetensors")
    found = load_file(trained / "model.safetensors")
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted if "quantiser" not in name)


def test_adapters_train_merge_and_resume(stores, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        with pytest.raises(UserError, match=r"pip install 'ostinato\[lora\]'"):
            adapt(MusicLM(LMConfig(**SMALL)), 2)
    pytest.importorskip("peft")
    first = train(lm_run(stores, tmp_path / "first"))
    runs = [lm_run(stores, tmp_path / "run", init=str(first), lora=2, train={"steps": steps}) for steps in (2, 4)]
    half = train(runs[0])
    straight = train(dataclasses.replace(runs[1], output=str(tmp_path / "straight")))
    assert_same_checkpoint(train(runs[1]), straight)
    before, merged, apart = (
        load_file(p) for p in (first / "model.safetensors", half / "model.safetensors", half / "adapted.safetensors")
    )
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed and changed == {name.split(".lora_B")[0] + ".weight" for name in apart if ".lora_B" in name}
    assert load(half).generate("a tune", 0.2).codes.shape == (3, 10)  # an ordinary model folder


def test_averaged_weights(stores, tmp_path, monkeypatch):
    """By hand from the checkpoints of every step; resumed they go on; what validates better is what plays."""
    first = train(lm_run(stores, tmp_path / "first", train={"steps": 1}))
    losses = iter([2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 0.5, 0.6] * 2)
    monkeypatch.setattr(LMTask, "validate", lambda task, accelerator: {"loss": next(losses)})

    def averaging(output, steps):
        hyper = {"steps": steps, "ema": 0.25, "checkpoint_every": 1, "validate_every": 1, "keep": 9}
        return lm_run(stores, tmp_path / output, init=str(first), train=hyper)

    train(averaging("run", 4))
    found = checkpoints(tmp_path / "run")
    average = load_file(first / "model.safetensors")
    for step, folder in enumerate(found, 1):
        weights, share = load_file(folder / "model.safetensors"), min(0.25, (1 + step) / (10 + step))
        average = {name: share * average[name] + (1 - share) * weights[name] for name in weights}
        saved = load_file(folder / "ema.safetensors")
        assert all(torch.allclose(saved[name], average[name], atol=1e-6) for name in average)
        played, better = load(folder).lm.state_dict(), saved if step == 1 else weights
        assert all(torch.equal(played[name], better[name]) for name in better), step
    told = [json.loads((folder / "training.json").read_text()) for folder in found]
    assert [t["score"] for t in told] == [1.0, 1.0, 3.0, 0.5]
    assert [t["weights"] for t in told] == ["ema.safetensors", *["model.safetensors"] * 3]
    train(averaging("halves", 2))
    assert_same_checkpoint(train(averaging("halves", 4)), found[-1])
    load(found[0]).save_pretrained(tmp_path / "copy")
    copied, played = (load(folder).lm.state_dict() for folder in (tmp_path / "copy", found[0]))
    assert all(torch.equal(copied[name], played[name]) for name in played)


def test_the_checkpoint_that_validated_best_is_kept(stores, tmp_path, monkeypatch, capsys):
    losses = iter([3.0, 1.0, 2.0, 1.5, 2.5])
    monkeypatch.setattr(LMTask, "validate", lambda task, accelerator: {"loss": next(losses)})
    train(lm_run(stores, tmp_path, train={"steps": 5, "checkpoint_every": 1, "validate_every": 1, "keep": 1}))
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000002", "step-0000005"]
    assert "step-0000002 validated best" in " ".join(capsys.readouterr().err.split())


def test_scores_are_compared_with_those_of_the_same_clips_only(stores, tmp_path, monkeypatch, capsys):
    """Validation turns to the first second of a clip, where losses are higher: the best of before is kept, and the
    best since is what is told."""
    losses = iter([0.1, 0.2, 5.0, 4.0, 4.5, 4.6])
    monkeypatch.setattr(LMTask, "validate", lambda task, accelerator: {"loss": next(losses)})
    often = {"checkpoint_every": 1, "validate_every": 1, "keep": 1}
    train(lm_run(stores, tmp_path, train={"steps": 2, **often}))
    train(lm_run(stores, tmp_path, train={"steps": 6, **often}, clip_seconds=1.0))
    assert [int(p.name[5:]) for p in checkpoints(tmp_path)] == [1, 4, 6]
    assert "step-0000004 validated best" in " ".join(capsys.readouterr().err.split())
    task = LMTask(lm_run(stores, tmp_path), CPU)
    more = LMTask(lm_run(stores, tmp_path, train={"validation_clips": 65}), CPU)
    assert task.measure() == more.measure()  # there is but one clip to hear


def test_activation_checkpointing_changes_no_bit(stores, tmp_path):
    runs = [lively(stores, tmp_path / f"{on}", steps=4, checkpointing=on) for on in (False, True)]
    assert_same_checkpoint(*map(train, runs))


def test_speeds_are_logged(stores, tmp_path, monkeypatch):
    """Tokens are steps of the pattern where a code stands; MFU where a peak is known, and nowhere else."""
    train(lm_run(stores, tmp_path / "unknown", text_dropout=0.0))
    assert all("mfu" not in line for line in log_of(tmp_path / "unknown"))
    monkeypatch.setattr("ostinato.training.throughput.peak_flops", lambda device: 1e9)
    run = lm_run(stores, tmp_path / "known", text_dropout=0.0)
    train(run)
    text = max(load_text_encoder("minilm")([caption])[0].shape[1] for caption in CAPTIONS.values())
    for line in log_of(tmp_path / "known"):
        assert line["tokens_per_second"] / line["steps_per_second"] == pytest.approx(2 * (100 + 3 - 1))
        assert line["mfu"] * 1e9 / line["steps_per_second"] == pytest.approx(step_flops(run.model, 2, 100, text))
        assert line["gradient_norm/lm"] > 0 and line["learning_rate"] > 0


def test_trackers_by_name(stores, tmp_path, monkeypatch):
    monkeypatch.setattr("ostinato.training.distributed.get_available_trackers", list)
    for name, words in {"wanb": "did you mean 'wandb'", "wandb": "pip install wandb"}.items():
        with pytest.raises(UserError, match=words):
            train(lm_run(stores, tmp_path, train={"tracker": name}))
    train(lm_run(stores, tmp_path, train={"tracker": "none", "steps": 1}))
    assert not (tmp_path / "tensorboard").exists() and log_of(tmp_path)
