import json
import re

import pytest
from test_cli import ostinato, told  # noqa: F401
from test_evaluate import settings, world  # noqa: F401
from transformers import MusicgenConfig, MusicgenForConditionalGeneration, PreTrainedTokenizerFast

from ostinato.evaluation.evaluate import evaluate
from ostinato.evaluation.prompts import load_prompts
from ostinato.evaluation.reporting.paper_numbers import TABLE_1, TABLE_2, TABLE_4
from ostinato.evaluation.reporting.report import report
from ostinato.evaluation.reporting.results import key_of
from ostinato.evaluation.reporting.tables import STAND_INS


def score(value):
    return {"value": value, "low": value - 1, "high": value + 1, "n": 200, "shift": 0.0, "notes": []}


def row(name, variant, codebooks, scores, blocks=24, step=20_000, kind="model", run="run"):
    about = {"variant": variant, "codebooks": codebooks, "blocks": blocks, "step": step, "parameters": 281_000_000}
    about["source"] = f"{run}/step-{step:07d}"
    scores = {column: score(value) for column, value in scores.items()}
    return {"name": name, "kind": kind, "clips": 200, "lost": {}, "notes": [], "about": about, "folder": None} | {
        "scores": scores
    }


def written(folder, rows, seconds=10, proxies=("efficientat",)):
    folder.mkdir()
    heard = {column.partition("/")[2] for r in rows for column in r["scores"]}
    listeners = {name: {"proxy": name in proxies} for name in heard}
    (folder / "results.json").write_text(
        json.dumps({"settings": {"seconds": seconds}, "listeners": listeners, "rows": rows})
    )
    return folder


def sections(text):
    """Tables of a Markdown text, each with what stands above it."""
    return re.findall(r"((?:[^|\n][^\n]*\n\n)*)((?:\|[^\n]*\|\n?)+)", text)


def test_the_papers_numbers_stand_beside_ours_and_never_beside_a_stand_ins(tmp_path):
    real = {"fd/openl3": 101.5, "kl/passt": 1.625, "clap/clap": 0.175}
    rows = [
        row("a", "prefix-simba", 1, real),
        row("b", "prefix-simba", 1, {"fd/openl3": 55.25}, step=90_000),
        row("c", "cross-transformer", 1, {"fd/efficientat": 31.5}),
        row("d", "prefix-simba", 9, real, blocks=12, step=100_000),
        row("f", "prefix-simba", 1, {"fd/openl3": 99.25}, run="another"),
    ]
    long = written(tmp_path / "long", [row("e", "prefix-simba", 9, {"fd/openl3": 77.75}, step=100_000)], 25)
    files = report([written(tmp_path / "ten", rows), long], [], tmp_path / "out")
    text = files[0].read_text()
    for printed in (*TABLE_1, *TABLE_2, *TABLE_4):
        for value in printed.values.values():
            assert f"{value:.4f}" in text
    tables = [body for _, body in sections(text)]
    stand_ins = [body for body in tables if "efficientat" in body]
    assert stand_ins and not any("paper:" in body or "openl3" in body for body in stand_ins) and STAND_INS in text
    (first,) = (body for body in tables if "GT (1 layer)" in body)
    (line,) = (line for line in first.splitlines() if "Prefix SiMBA (ours: a)" in line)
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells == [
        "Prefix SiMBA (ours: a)", "281.0 M; paper: 281 M", "20000",
        "101.5 [100.5, 102.5]", "102.7248", "1.625 [0.625, 2.625]", "1.5106", "0.175 [-0.825, 1.175]", "0.1776",
    ]  # fmt: skip
    assert "Prefix SiMBA (ours: f)" in first and "99.25" in first and "(ours: b)" not in first
    (second,) = (body for body in tables if "Official MusicGen-small" in body)
    (line,) = (line for line in second.splitlines() if "all codebooks (ours: d, e)" in line)
    assert "77.75" in line and "107.2963" in line and "98.6492" in line
    (fourth,) = (body for body in tables if "12 blocks" in body and "FD" in body)
    assert "(ours: d)" in fourth and "88.1027" in fourth
    assert (tmp_path / "out" / "figure-2.png").stat().st_size > 1000  # two steps of one model
    assert "Not drawn" in text and "Figure 1" in text


def test_only_the_small_musicgen_is_the_papers():
    def place(parameters):
        about = {"variant": "musicgen", "parameters": parameters}
        return key_of({"name": "baseline", "kind": "model", "about": about})

    assert place(420_000_000) == "musicgen-small" and place(1_800_000_000) == ""


@pytest.mark.slow
def test_the_figures_are_drawn_from_what_was_evaluated(world, tmp_path, capfd):  # noqa: F811
    prompts = load_prompts(str(world / "prompts.csv"))
    asked = settings(world, codec=str(world / "model" / "codec"), codebooks=(1, 3), metrics=("fd",))
    evaluate([f"prefix-simba-9={world / 'model'}"], prompts, world / "real", tmp_path / "eval", asked)
    log = [{"step": s, "kind": "validation", "loss": 5 - s / 100} for s in (100, 200)]
    (tmp_path / "run").mkdir()
    (world / "real" / "tune3.json").write_text("{}")  # a caption, as it may stand beside a clip
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    ostinato("report", tmp_path / "eval", "--run", tmp_path / "run", "--prompt", "tune3", "-o", tmp_path / "out")
    printed = capfd.readouterr().out.split()
    assert {name.rpartition("/")[2] for name in printed} == {
        "report.md", "losses.png", "figure-3.png", "study-figure-1.png",
    }  # fmt: skip
    text = (tmp_path / "out" / "report.md").read_text()
    assert "ours: prefix-simba-9" not in text.partition("The paper's own")[0].partition("Table II")[0]
    assert "| Prefix SiMBA, all codebooks (ours: prefix-simba-9) |" in text


def test_what_is_no_evaluation_is_told(tmp_path, told):  # noqa: F811
    assert "nothing to report" in told("report", "-o", tmp_path / "out")
    assert "is no evaluation" in told("report", tmp_path, "-o", tmp_path / "out")
    assert "no log to read" in told("report", "--run", tmp_path, "-o", tmp_path / "out")
    evaluation = written(tmp_path / "e", [row("a", "prefix-simba", 1, {}) | {"folder": str(tmp_path)}])
    assert "no clip is named 'x'" in told("report", evaluation, "--prompt", "x", "-o", tmp_path / "out")


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory):
    """MusicGen's architecture, tiny, with random weights and four words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("musicgen")
    text = {"model_type": "t5", "vocab_size": 8, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    audio = {"model_type": "encodec", "sampling_rate": 8000, "num_filters": 2, "upsampling_ratios": [8, 5, 4]}
    audio |= {
        "codebook_size": 16,
        "codebook_dim": 8,
        "hidden_size": 8,
        "num_lstm_layers": 1,
        "target_bandwidths": [0.8],
    }
    lm = {"vocab_size": 16, "num_hidden_layers": 1, "ffn_dim": 8, "num_attention_heads": 2, "hidden_size": 8}
    lm |= {"num_codebooks": 4, "pad_token_id": 16, "bos_token_id": 16}
    model = MusicgenForConditionalGeneration(MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=lm))
    for key in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.generation_config, key, 16)
    model.save_pretrained(folder)
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "a", "tune", "in", "style"))}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def test_musicgen_is_a_target(musicgen, world, tmp_path):  # noqa: F811
    prompts = load_prompts(str(world / "prompts.csv"), 3)
    asked = settings(world, metrics=("fd",))
    results = evaluate([f"baseline={musicgen}"], prompts, world / "real", tmp_path / "out", asked)
    (found,) = (r for r in results["rows"] if r["name"] == "baseline")
    assert found["clips"] == 3 and found["about"]["variant"] == "musicgen" and found["about"]["parameters"] > 0
    clips = {p.name: p.read_bytes() for p in (tmp_path / "out" / "clips" / "baseline").glob("*.wav")}
    assert len(set(clips.values())) == 3
    missing = tmp_path / "out" / "clips" / "baseline" / f"{prompts.prompts[1].name}.wav"
    missing.unlink()
    evaluate([f"baseline={musicgen}"], prompts, world / "real", tmp_path / "out", asked)
    assert missing.read_bytes() == clips[missing.name]
    assert "Official MusicGen-small" in report([tmp_path / "out"], [], tmp_path / "report")[0].read_text()
