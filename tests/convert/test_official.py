"""Import of the authors' checkpoints, against a plain reference of their architecture written from its facts alone."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ostinato import cli
from ostinato.convert import official
from ostinato.generation.folders import load_lm
from ostinato.generation.info import describe
from ostinato.models.lm import LMConfig
from ostinato.utils.schema import build

pytestmark = pytest.mark.slow

WIDTH, STATE, HEAD, CONV, TEXT, FF, CODES = 16, 6, 8, 4, 12, 32, 10  # CODES: entries of a codebook
INNER = 2 * WIDTH
KINDS = ("prefix-mamba", "prefix-simba", "cross-simba", "cross-transformer")
PARTS = {
    "prefix-mamba": [("", "mamba")],
    "prefix-simba": [("mamba.", "mamba"), ("ff.", "ff")],
    "cross-simba": [("mamba.", "mamba"), ("cross_atten.", "cross_atten"), ("ff.", "ff")],
    "cross-transformer": [("self_atten.", "self_atten"), ("cross_atten.", "cross_atten"), ("ff.", "ff")],
}


def their_weights(kind: str, layers: int, K: int, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as theirs, every number random, in float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale + mean

    def linear(out: int, into: int) -> Tensor:
        return normal(out, into, scale=into**-0.5)

    heads, channels = INNER // HEAD, INNER + 2 * STATE
    one = {
        "mamba": lambda: {
            "mamba.in_proj.weight": linear(INNER + channels + heads, WIDTH),
            "mamba.conv1d.weight": normal(channels, 1, CONV, scale=0.5),
            "mamba.conv1d.bias": normal(channels, scale=0.3),
            "mamba.dt_bias": normal(heads, mean=-1.0),
            "mamba.A_log": normal(heads, scale=0.7),
            "mamba.D": normal(heads),
            "mamba.norm.weight": normal(INNER, scale=0.3, mean=1.0),
            "mamba.out_proj.weight": linear(WIDTH, INNER),
        },
        "ff": lambda: {
            "feed_forward.0.weight": linear(FF, WIDTH),
            "feed_forward.0.bias": normal(FF, scale=0.3),
            "feed_forward.3.weight": linear(WIDTH, FF),
            "feed_forward.3.bias": normal(WIDTH, scale=0.3),
        },
    }
    for name in ("self_atten", "cross_atten"):
        one[name] = lambda name=name: {
            f"{name}.to_q.weight": 2 * linear(WIDTH, WIDTH),
            f"{name}.to_kv.weight": 2 * linear(2 * WIDTH, WIDTH),
            f"{name}.attention.to_out.weight": linear(WIDTH, WIDTH),
            f"{name}.attention.to_out.bias": normal(WIDTH, scale=0.3),
        }
    weights = {
        "condition_norm.weight": normal(WIDTH, scale=0.3, mean=1.0),
        "condition_norm.bias": normal(WIDTH, scale=0.3),
        "condition_linear.weight": linear(WIDTH, TEXT),
        "condition_linear.bias": normal(WIDTH, scale=0.3),
    }
    weights |= {f"embedding.{k}.weight": normal(CODES + 1, WIDTH) for k in range(K)}
    for block in range(layers):
        for part, mixer in PARTS[kind]:
            here = f"backbone.{block}.{part}"
            weights[f"{here}norm.weight"] = normal(WIDTH, scale=0.3, mean=1.0)
            weights |= {here + name: tensor for name, tensor in one[mixer]().items()}
    weights |= {f"lm_head.{k}.weight": linear(CODES + 1, WIDTH) for k in range(K)}
    return {f"music_model.{name}": tensor for name, tensor in weights.items()}


def reference(
    weights: dict[str, Tensor], kind: str, layers: int, steps: Tensor, text: Tensor, heads: int = 8
) -> Tensor:
    """Their forward in float64: steps [b, K, S], text [b, s, TEXT] -> logits [b, K, ., V].

    A model with the text as prefix has S + 1 logits: it starts with those of the last text token.
    """
    w = {name.removeprefix("music_model."): tensor.double() for name, tensor in weights.items()}
    K, S = steps.shape[1:]

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def positions(count: int) -> Tensor:
        half = WIDTH // 2
        angle = torch.arange(count).double()[:, None] / 10000.0 ** (torch.arange(half).double() / (half - 1))
        return torch.cat([angle.cos(), angle.sin()], 1)

    def mamba(u: Tensor, at: str) -> Tensor:
        T, h = u.shape[1], INNER // HEAD
        z, x, B, C, dt = (u @ w[at + "in_proj.weight"].T).split([INNER, INNER, STATE, STATE, h], -1)
        mixed = torch.zeros(len(u), T, INNER + 2 * STATE, dtype=torch.float64)
        for t in range(T):
            for tap in range(CONV):  # the last tap is the present frame
                if (past := t - (CONV - 1) + tap) >= 0:
                    frame = torch.cat([x, B, C], -1)[:, past]
                    mixed[:, t] += w[at + "conv1d.weight"][:, 0, tap] * frame
        mixed = mixed + w[at + "conv1d.bias"]
        x, B, C = (mixed * mixed.sigmoid()).split([INNER, STATE, STATE], -1)
        dt = (1 + (dt + w[at + "dt_bias"]).exp()).log()
        A, state = -w[at + "A_log"].exp(), torch.zeros(len(u), h, HEAD, STATE, dtype=torch.float64)
        y = torch.zeros(len(u), T, INNER, dtype=torch.float64)
        for t in range(T):
            for head in range(h):
                now = x[:, t, head * HEAD : (head + 1) * HEAD]
                step = dt[:, t, head, None, None]
                state[:, head] = (step * A[head]).exp() * state[:, head] + step * now[:, :, None] * B[:, t, None, :]
                out = (state[:, head] * C[:, t, None, :]).sum(-1) + w[at + "D"][head] * now
                y[:, t, head * HEAD : (head + 1) * HEAD] = out
        return rms(y * z * z.sigmoid(), w[at + "norm.weight"]) @ w[at + "out_proj.weight"].T

    def attention(u: Tensor, context: Tensor, at: str, causal: bool) -> Tensor:
        q, (k, v) = u @ w[at + "to_q.weight"].T, (context @ w[at + "to_kv.weight"].T).chunk(2, -1)
        out, wide = torch.zeros_like(u), WIDTH // heads
        for head in range(heads):
            part = slice(head * wide, (head + 1) * wide)
            scores = q[..., part] @ k[..., part].mT / wide**0.5
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
            out[..., part] = scores.softmax(-1) @ v[..., part]
        return out @ w[at + "attention.to_out.weight"].T + w[at + "attention.to_out.bias"]

    def feed_forward(u: Tensor, at: str) -> Tensor:
        hidden = u @ w[at + "0.weight"].T + w[at + "0.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        return hidden @ w[at + "3.weight"].T + w[at + "3.bias"]

    frames = sum(w[f"embedding.{k}.weight"][steps[:, k]] for k in range(K))
    condition = text.double() @ w["condition_linear.weight"].T + w["condition_linear.bias"]
    condition = condition - condition.mean(-1, keepdim=True)
    condition = condition / (condition.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    condition = condition * w["condition_norm.weight"] + w["condition_norm.bias"]
    prefix = kind.startswith("prefix")
    if prefix:
        x = torch.cat([condition, frames], 1)
        x = x + positions(x.shape[1])
    else:
        x, condition = frames + positions(S), condition + positions(text.shape[1])
    for block in range(layers):
        for part, mixer in PARTS[kind]:
            at = f"backbone.{block}.{part}"
            norm = w[f"{at}norm.weight"]
            u = rms(x, norm)
            if mixer == "mamba":
                x = x + mamba(u, f"{at}mamba.")
            elif mixer == "ff":
                x = x + feed_forward(u, f"{at}feed_forward.")
            elif mixer == "self_atten":
                x = x + attention(u, u, f"{at}self_atten.", True)
            else:  # one norm for the frames and the text
                x = x + attention(u, rms(condition, norm), f"{at}cross_atten.", False)
    logits = torch.stack([x @ w[f"lm_head.{k}.weight"].T for k in range(K)], 1)
    return logits[:, :, text.shape[1] - 1 :] if prefix else logits


def their_steps(codes: Tensor) -> Tensor:
    """codes [b, K, T] -> [b, K, T + K]: a special token first, then codebook k after k more of them."""
    b, K, T = codes.shape
    steps = torch.full((b, K, T + K), CODES)
    for k in range(K):
        for t in range(T):
            steps[:, k, 1 + k + t] = codes[:, k, t]
    return steps


def their_config(kind: str, layers: int, K: int, changes: dict) -> dict:
    model = {
        "layers": layers,
        "vocab_size": CODES + 1,
        "codec_layer": K,
        "d_model": WIDTH,
        "drop_p": 0.25,
        "d_state": STATE,
        "num_heads": 4,
        "self_atten_layers": list(range(layers)) if kind == "cross-transformer" else [],
        "is_incontext": kind.startswith("prefix"),
        "is_pure_mamba": kind == "prefix-mamba",
    }
    return {
        "training": {"name": "x", "epoch": 500, "precision": "bf16"},
        "model": model | changes,
        "optimizer": {"optim_lr": 1e-4, "weight_decay": 0.02, "betas": [0.9, 0.999]},
    }


def lightning(weights: dict[str, Tensor], config: dict) -> dict:
    """All that Lightning puts into a .ckpt, the frozen text encoder among the weights."""
    encoder = {"text_encoder.shared.weight": torch.randn(5, 3), "text_encoder.encoder.norm.weight": torch.ones(3)}
    moments = {i: {"step": torch.tensor(7.0), "exp_avg": torch.randn(3), "exp_avg_sq": torch.rand(3)} for i in range(4)}
    return {
        "epoch": 3,
        "global_step": 4500,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": encoder | weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "completed": 3}}}},
        "callbacks": {"ModelCheckpoint{'every_n_train_steps': 500}": {"best_model_path": "", "best_k_models": {}}},
        "optimizer_states": [
            {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1]}]}
        ],
        "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": 9, "lr_lambdas": [None]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": config},
    }


def put(folder: Path, kind: str = "prefix-simba", layers: int = 2, K: int = 1, weights=None, changes=None) -> list[str]:
    """Write a checkpoint and its config.json; the arguments of import-official, with an OUT that is not there."""
    weights = their_weights(kind, layers, K) if weights is None else weights
    config = their_config(kind, layers, K, changes or {})
    torch.save(lightning(weights, config), folder / "simba.ckpt")
    (folder / "config.json").write_text(json.dumps(config))
    return [str(folder / "simba.ckpt"), str(folder / "config.json"), str(folder / "model")]


def command(arguments: list[str], monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and stderr of `ostinato import-official`."""
    monkeypatch.setattr(sys, "argv", ["ostinato", "import-official", *arguments])
    capsys.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as exit:
        code = int(exit.code or 0)
    return code, capsys.readouterr().err


def refused(folder: Path, arguments: list[str], monkeypatch, capsys) -> str:
    """The one line that a refusal says. Nothing is left behind."""
    before = sorted(folder.rglob("*"))
    code, said = command(arguments, monkeypatch, capsys)
    assert code == 2 and said.startswith("ostinato: ") and said.count("\n") == 1, (code, said)
    assert sorted(folder.rglob("*")) == before
    return said


@pytest.mark.parametrize("K", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_theirs(kind, K, tmp_path, monkeypatch, capsys):
    layers = 4 if kind == "prefix-mamba" else 3
    weights = their_weights(kind, layers, K)
    arguments = put(tmp_path, kind, layers, K, weights)
    assert command(arguments, monkeypatch, capsys) == (0, "")
    lm, config = load_lm(arguments[2])
    generator = torch.Generator().manual_seed(1)
    codes, text = torch.randint(CODES, (2, K, 9), generator=generator), torch.randn(2, 5, TEXT, generator=generator)
    steps, mask = their_steps(codes), torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(steps[:, :, 1:], lm.pattern.encode(codes, lm.special)), (
        "their delay is ours, after a special step"
    )
    wanted = reference(weights, kind, layers, steps, text, heads=4)
    if kind.startswith("prefix"):
        wanted = wanted[:, :, 1:]  # theirs begin before the special step, with what no loss has trained
    assert wanted.std() > 0.3

    def worst(found: Tensor) -> float:
        assert found.shape == wanted.shape
        return (found - wanted).abs().max().item()

    def stepped(state) -> Tensor:
        return torch.stack([lm.step(steps[:, :, i], state) for i in range(steps.shape[2])], 2)

    with torch.no_grad():
        assert worst(lm(steps, text, mask)) < 1e-4
        assert worst(stepped(lm.start(text, mask))) < 1e-4
        lm.double()  # what is left is the float32 of the positions
        assert worst(lm(steps, text.double(), mask)) < 3e-5
        padded = torch.nn.functional.pad(text.double(), (0, 0, 0, 3), value=9.0)
        padded_mask = torch.nn.functional.pad(mask, (0, 3))
        assert worst(lm(steps, padded, padded_mask)) < 3e-5
        assert worst(stepped(lm.start(padded, padded_mask))) < 3e-5
    assert config["training"] == {"step": 4500, "imported_from": "simba.ckpt"}
    assert (config["text"], config["codec"], config["codec_id"]) == ("google/flan-t5-base", "descript/dac_44khz", "")


def test_sizes_come_from_the_shapes(tmp_path, monkeypatch, capsys):
    """With a config that says nothing: nine codebooks, and the paper's dropout."""
    arguments = put(tmp_path, K=9)
    Path(arguments[1]).write_text('{"model": {}}')
    assert command(arguments, monkeypatch, capsys)[0] == 0
    lm, _ = load_lm(arguments[2])
    assert lm.config == LMConfig(
        variant="prefix-simba",
        num_codebooks=9,
        pattern="delay",
        codebook_size=CODES,
        text_width=TEXT,
        width=WIDTH,
        blocks=2,
        feed_forward=FF,
        state=STATE,
        expand=2,
        head_width=HEAD,
        conv=CONV,
        dropout=0.3,
        positions="audiocraft",
        condition_norm=True,
        final_norm=False,
    )


def test_by_the_shell(tmp_path, monkeypatch, capsys):
    """As a user runs it: the import, `info` of the result, a second import into the same folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "ostinato.cli", *arguments], capture_output=True, text=True)

    arguments = put(tmp_path)
    done = run("import-official", *arguments)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", arguments[2])
    info = run("info", arguments[2])
    assert info.returncode == 0
    for word in ("prefix-simba", "4500 steps", "google/flan-t5-base", "unknown id", "width 16, 2 blocks, state 6"):
        assert word in info.stdout, info.stdout
    said = refused(tmp_path, arguments, monkeypatch, capsys)
    assert said == f"ostinato: {arguments[2]} already holds files; name a new folder to write\n"


def test_older_files_and_other_types(tmp_path, monkeypatch, capsys):
    """Without zip, in bfloat16, into an empty folder: the same model in float32."""
    weights = {name: t.bfloat16() for name, t in their_weights("prefix-simba", 2, 1).items()}
    arguments = put(tmp_path, weights=weights)
    Path(arguments[2]).mkdir()
    assert command(arguments, monkeypatch, capsys)[0] == 0
    new = load_file(Path(arguments[2]) / "model.safetensors")
    saved = torch.load(arguments[0], weights_only=True)
    torch.save(saved, arguments[0], _use_new_zipfile_serialization=False)
    arguments[2] += "-2"
    assert command(arguments, monkeypatch, capsys)[0] == 0
    old = load_file(Path(arguments[2]) / "model.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, new[name])
    ours = "layers.0.mixer.in_proj.weight"
    assert torch.equal(new[ours], weights["music_model.backbone.0.mamba.mamba.in_proj.weight"].float())


def test_a_model_without_a_seed_is_described(tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    command(arguments, monkeypatch, capsys)
    assert describe(Path(arguments[2]))["trained"] == "4500 steps"


def test_older_configs_of_ours_are_as_they_were():
    """config.json of a model saved before the settings for these checkpoints came."""
    assert build(LMConfig, {"condition_norm": False, "positions": ""}, "lm") == LMConfig()


class Code:
    """Pickled, it runs a command where it is read."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch, capsys):
    arguments, marker = put(tmp_path), tmp_path / "ran"
    saved = torch.load(arguments[0], weights_only=True)
    torch.save(saved | {"hyper_parameters": Code(marker)}, arguments[0])
    said = refused(tmp_path, arguments, monkeypatch, capsys)
    assert "holds code" in said and "system" in said and not marker.exists()
    Path(arguments[0]).write_bytes(pickle.dumps({"state_dict": {}, "global_step": Code(marker)}))
    refused(tmp_path, arguments, monkeypatch, capsys)
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99, 0.9999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file(share, zipped, tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    if not zipped:
        saved = torch.load(arguments[0], weights_only=True)
        torch.save(saved, arguments[0], _use_new_zipfile_serialization=False)
    whole = Path(arguments[0]).read_bytes()
    Path(arguments[0]).write_bytes(whole[: int(share * len(whole))])
    assert "not a readable checkpoint" in refused(tmp_path, arguments, monkeypatch, capsys)


NOT_CHECKPOINTS = {
    "a tensor": torch.ones(3),
    "a list": [1, 2],
    "bare weights": {"a.weight": torch.ones(2)},
    "a state that is none": {"state_dict": [1], "global_step": 1},
    "no tensors": {"state_dict": {"a": 1}, "global_step": 1},
    "numbered": {"state_dict": {0: torch.ones(1)}, "global_step": 1},
    "no step": {"state_dict": {"a": torch.ones(1)}},
    "an odd step": {"state_dict": {"a": torch.ones(1)}, "global_step": "many"},
}


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_not_a_lightning_file(name, tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    torch.save(NOT_CHECKPOINTS[name], arguments[0])
    assert "not a Lightning checkpoint" in refused(tmp_path, arguments, monkeypatch, capsys)


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04rubbish", b"\x80\x02}q\x00.", b"\x00" * 1000])
def test_not_even_that(content, tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    Path(arguments[0]).write_bytes(content)
    assert "simba.ckpt" in refused(tmp_path, arguments, monkeypatch, capsys)


def test_no_such_checkpoint(tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    for missing in (tmp_path / "none.ckpt", tmp_path):
        said = refused(tmp_path, [str(missing), *arguments[1:]], monkeypatch, capsys)
        assert "there is no checkpoint file" in said


def renamed(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


def test_unknown_variants_name_the_first_key(tmp_path, monkeypatch, capsys):
    simba, cross = their_weights("prefix-simba", 3, 1), their_weights("cross-simba", 3, 1)
    transformer = their_weights("cross-transformer", 3, 1)
    fused = {"music_model.backbone.1.fusion_gate.weight": torch.ones(WIDTH, 2 * WIDTH)}
    mixed = {n: t for n, t in cross.items() if ".2." not in n} | {n: t for n, t in transformer.items() if ".2." in n}
    cases = {
        "music_model.backbone.1.fusion_gate.weight": simba | fused,
        "music_model.backbone.2.self_atten.norm.weight": mixed,
        "music_model.embedding.0.bias": simba | {"music_model.embedding.0.bias": torch.ones(WIDTH)},
        "music_model.norm.weight": simba | {"music_model.norm.weight": torch.ones(WIDTH)},
        "model.condition_norm.weight": renamed(simba, "music_model.", "model."),
        "music_model.backbone.1.mixer.norm.weight": renamed(simba, "backbone.1.mamba", "backbone.1.mixer"),
        "music_model.backbone.00.mamba.norm.weight": renamed(simba, "backbone.0", "backbone.00"),
    }
    for first, weights in cases.items():
        said = refused(tmp_path, put(tmp_path, layers=3, weights=weights), monkeypatch, capsys)
        assert f"unknown weight '{first}'" in said
    said = refused(tmp_path, put(tmp_path, weights={}), monkeypatch, capsys)
    assert "lacks the weight 'music_model.condition_linear.weight'" in said
    lacking = {n: t for n, t in simba.items() if n != "music_model.backbone.2.mamba.mamba.D"}
    said = refused(tmp_path, put(tmp_path, layers=3, weights=lacking), monkeypatch, capsys)
    assert "lacks the weight 'music_model.backbone.2.mamba.mamba.D'" in said
    said = refused(tmp_path, put(tmp_path, "prefix-mamba", 3), monkeypatch, capsys)
    assert "has 3 Mamba layers" in said


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("kind", KINDS)
def test_any_wrong_shape_is_told(kind, tmp_path, monkeypatch, capsys):
    weights = their_weights(kind, 2, 1)
    for name in weights:
        for wrong in (torch.ones(3, 3, 3, 3), torch.ones(()), torch.zeros(0), torch.ones(1, 1, 1), torch.ones(5, 7)):
            arguments = put(tmp_path, kind, weights=weights | {name: wrong})
            Path(arguments[1]).write_text('{"model": {"num_heads": 1}}')
            assert "simba.ckpt" in refused(tmp_path, arguments, monkeypatch, capsys), name


def test_contradictions_are_told(tmp_path, monkeypatch, capsys):
    wrong = {"layers": 24, "vocab_size": 1025, "codec_layer": 9, "d_model": 1024, "d_state": 512}
    for key, value in (wrong | {"is_incontext": False, "is_pure_mamba": True}).items():
        said = refused(tmp_path, put(tmp_path, changes={key: value}), monkeypatch, capsys)
        assert f"says {key} {value!r}, but the weights say" in said
    for value in (-0.1, 1, "0.3", None, True):
        assert "drop_p" in refused(tmp_path, put(tmp_path, changes={"drop_p": value}), monkeypatch, capsys)
    for heads in (0, 3, -4, 4.0, "4", None):
        arguments = put(tmp_path, "cross-simba", changes={"num_heads": heads})
        assert "num_heads" in refused(tmp_path, arguments, monkeypatch, capsys)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"training": {}}', '{"model": [24]}', "\x00", "[" * 100_000])
def test_bad_config(text, tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    Path(arguments[1]).write_text(text)
    assert "config.json" in refused(tmp_path, arguments, monkeypatch, capsys)
    Path(arguments[1]).write_bytes(b"\xff\xfe{}")
    assert "is not JSON" in refused(tmp_path, arguments, monkeypatch, capsys)


def test_no_config(tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    for missing in (tmp_path / "none.json", tmp_path):
        arguments[1] = str(missing)
        assert "cannot be read" in refused(tmp_path, arguments, monkeypatch, capsys)


def test_out_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    arguments = put(tmp_path)
    out = tmp_path / "model"
    out.write_text("a file")
    assert "is a file" in refused(tmp_path, arguments, monkeypatch, capsys)
    assert "cannot be written" in refused(tmp_path, [*arguments[:2], f"{out}/below"], monkeypatch, capsys)
    out.unlink()
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert "already holds files" in refused(tmp_path, arguments, monkeypatch, capsys)
    (out / "thesis.txt").unlink()

    def disk_full(folder, *_):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(official, "save_lm", disk_full)
    assert "No space left" in refused(tmp_path, arguments, monkeypatch, capsys)
