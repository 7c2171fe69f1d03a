import dataclasses
from pathlib import Path

import pytest
import yaml

from ostinato.codecs.pocket import PocketConfig
from ostinato.models.lm import LMConfig
from ostinato.training.config import CodecRun, LMRun, Optimisation, load_run
from ostinato.training.settings import read_config
from ostinato.utils.errors import UserError

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("[!d]*.yaml"))  # data-*.yaml are recipes of curate
LM = {"data": "stores/x", "output": "runs/x", "model": {"variant": "cross-simba"}}


def config(folder, values, name="run.yaml"):
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def refused(path, settings=()):
    """The message, which is one line."""
    with pytest.raises(UserError) as error:
        load_run(path, settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    run = load_run(path)
    assert run.task == read_config(path).get("task", "lm")


def test_defaults_are_the_papers(tmp_path):
    run = load_run(config(tmp_path, LM))
    assert run == LMRun("stores/x", "runs/x", LMConfig(variant="cross-simba"))
    m, t = run.model, run.train
    assert (m.width, m.blocks, m.heads, m.feed_forward, m.dropout) == (1024, 24, 8, 2048, 0.3)
    assert (m.state, m.expand, m.head_width, m.conv, m.codebook_size) == (512, 2, 64, 4, 1024)
    assert (t.learning_rate, t.weight_decay, t.betas, t.warmup, t.steps) == (1e-4, 2e-2, (0.9, 0.999), 100, 100_000)
    assert (t.batch, t.accumulation, run.clip_seconds) == (4, 32, 30.0)
    assert (run.label_smoothing, run.text_dropout) == (0.1, 0.1)
    codec = load_run(config(tmp_path, {"task": "codec", "data": "d", "output": "o"}))
    assert codec == CodecRun("d", "o", PocketConfig(), train=Optimisation())


def test_every_key_of_every_section_can_be_set(tmp_path):
    """What a run is, written out, read back, is the same run; so is a checkpoint's record of it in JSON."""
    model = LMConfig("prefix-simba", 3, "delay", positions="sinusoidal", dropout=0.0)
    train = Optimisation(betas=(0.5, 0.75), precision="fp32", learning_rate=1e-5)
    for run in (
        LMRun("d", "o", model, prompts=("a", "b"), train=train),
        CodecRun("d", "o", PocketConfig(16000, 160, 640), train=train),
    ):
        plain = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(run)).replace("!!python/tuple", ""))
        assert load_run(config(tmp_path, plain)) == run


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model.variants", "'variant'"),
        ("model.num_codebook", "'num_codebooks'"),
        ("train.learningrate", "'learning_rate'"),
        ("train.step", "'steps'"),
        ("clip_second", "'clip_seconds'"),
        ("modle", "'model'"),
        ("zzz", "there are: data, output, model"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, key, nearest):
    message = refused(config(tmp_path, LM), [f"{key}=1"])
    assert f"unknown key {key!r}" in message and nearest in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.variant=cross-samba", "unknown variant 'cross-samba' did 'cross-simba'"),
        ("model.variant=5", "model.variant str 5"),
        ("model.pattern=spiral", "unknown pattern 'spiral' single, delay, flatten"),
        ("model.num_codebooks=2", "'single' 2 'delay'"),
        ("model.norm=batch", "norm 'batch'"),
        ("task=codecs", "unknown task 'codecs' 'codec'"),
        ("task=[lm]", "unknown task ['lm']"),
        ("train.steps=many", "train.steps int 'many'"),
        ("train.steps=1.5", "train.steps int 1.5"),
        ("train.steps=true", "train.steps int True"),
        ("train.learning_rate=fast", "train.learning_rate float 'fast'"),
        ("train.learning_rate=false", "train.learning_rate float False"),
        ("train.learning_rate=", "train.learning_rate float None"),
        ("train.betas=0.9", "train.betas 0.9"),
        ("train.betas=[0.9]", "train.betas 2 [0.9]"),
        ("train.betas=[0.9, x]", "train.betas float 'x'"),
        ("prompts=a song", "prompts list of str 'a song'"),
        ("train=5", "train section 5"),
        ("model=", "model section None"),
        ("output=3", "output str 3"),
        ("train.steps=0", "train.steps at least 1"),
        ("train.batch=0", "batch at least 1"),
        ("train.accumulation=-1", "accumulation at least 1"),
        ("train.checkpoint_every=0", "checkpoint_every at least 1"),
        ("train.validate_every=0", "validate_every at least 1"),
        ("train.log_every=0", "log_every at least 1"),
        ("train.validation_clips=0", "validation_clips at least 1"),
        ("train.keep=0", "keep at least 1"),
        ("train.keep_every=1500", "keep_every must be a multiple checkpoint_every 1000 got 1500"),
        ("train.workers=-1", "workers -1"),
        ("train.warmup=-1", "train.warmup at least 0 -1"),
        ("train.clip_norm=0", "train.clip_norm above 0 .inf"),
        ("train.ema=1", "ema under 1 1.0"),
        ("train.tracker=3", "train.tracker str 3"),
        ("lora=-1", "lora rank -1"),
        ("lora=4", "lora 4 --init"),
        ("train.precision=fp8", "precision auto 'fp8'"),
        ("clip_seconds=0", "clip_seconds above 0"),
        ("clip_seconds=.nan", "clip_seconds nan"),
        ("train.learning_rate=0", "train.learning_rate above 0 0.0"),
        ("train.learning_rate=.inf", "train.learning_rate inf"),
        ("train.final_learning_rate=-1e-4", "train.final_learning_rate at least 0 -0.0001"),
        ("train.final_learning_rate=.nan", "train.final_learning_rate nan"),
        ("train.weight_decay=-1", "train.weight_decay at least 0 -1.0"),
        ("train.betas=[0.9, 1]", "train.betas under 1 [0.9, 1.0]"),
        ("train.betas=[-0.1, 0.9]", "train.betas [-0.1, 0.9]"),
        ("train.betas=[.nan, 0.9]", "train.betas nan"),
        ("train.seed=-1", "train.seed 2147483647 -1"),
        ("train.seed=2147483648", "train.seed 2147483648"),
        ("sample_seconds=0", "sample_seconds above 0 0.0"),
        ("sample_seconds=.inf", "sample_seconds inf"),
        ("text_dropout=1.5", "text_dropout 1.5"),
        ("label_smoothing=-0.1", "label_smoothing -0.1"),
        ("model.heads=7", "model: width 1024 heads 7"),
        ("model.head_width=100", "model: head_width 100 2048"),
        ("model.width=0", "model: width 0"),
        ("model.chunk=0", "model: chunk 0"),
        ("model.dropout=1.5", "model: dropout 1.5"),
        ("nothing", "--set key=value 'nothing'"),
        ("=5", "--set key=value '=5'"),
        ("data.more=5", "--set 'data' value"),
        ("data={", "--set YAML"),
    ],
)
def test_wrong_values_are_named(tmp_path, setting, words):
    message = refused(config(tmp_path, LM), [setting])
    for word in words.split(" "):
        assert word in message


def test_models_that_cannot_be():
    """Each only where the variant has it."""
    sizes = {"width": 6, "heads": 4, "head_width": 12}
    LMConfig("prefix-simba", **sizes)
    with pytest.raises(ValueError, match=r"width 6.*heads 4"):
        LMConfig("cross-simba", **sizes)
    LMConfig("cross-transformer", width=6, heads=2, head_width=100)
    with pytest.raises(ValueError, match="head_width 100"):
        LMConfig("prefix-mamba", width=6, head_width=100)
    LMConfig("prefix-mamba", width=7, head_width=14)
    with pytest.raises(ValueError, match="even"):
        LMConfig("prefix-mamba", width=7, head_width=14, positions="sinusoidal")


def test_codec_that_cannot_be(tmp_path):
    path = config(tmp_path, {"task": "codec", "data": "d", "output": "o"})
    message = refused(path, ["model.window=1000"])
    assert "window" in message and "1000" in message and "640" in message
    message = refused(path, ["model.window=640"])  # no overlap
    assert "window 640" in message and "at least 1280" in message
    assert "unknown key 'model.hops'" in refused(path, ["model.hops=3"])


def test_clips_shorter_than_a_spectrum(tmp_path):
    """A codec's clips hold the longest window of its losses, what its adversary hears the longest of its own."""
    path = config(tmp_path, {"task": "codec", "data": "d", "output": "o", "model": {"sample_rate": 8000}})
    assert load_run(path, ["clip_seconds=0.512", "adversary_seconds=0.256"])
    for setting in "clip_seconds=0.5", "adversary_seconds=0.25", "adversary_seconds=.nan", "clip_seconds=.inf":
        key, _, value = setting.partition("=")
        message = refused(path, [setting])
        assert key in message and value.lstrip(".") in message
    assert "at least 0.512 (4096 samples at 8000 Hz), got 0.5" in refused(path, ["clip_seconds=0.5"])


@pytest.mark.parametrize("key", ["data", "output", "model"])
def test_missing_keys_are_named(tmp_path, key):
    message = refused(config(tmp_path, {k: v for k, v in LM.items() if k != key}))
    assert f"lacks {key!r}" in message and "--set" in message


def test_a_base_is_laid_under(tmp_path):
    (tmp_path / "sub").mkdir()
    train = {"steps": 5, "batch": 2, "betas": [0.1, 0.2]}
    config(tmp_path, LM | {"text": "minilm", "train": train}, "base.yaml")
    config(tmp_path, {"base": "base.yaml", "train": {"batch": 3}, "output": "second"}, "middle.yaml")
    top = config(tmp_path / "sub", {"base": "../middle.yaml", "train": {"betas": [0.3, 0.4]}, "model": {"blocks": 2}})
    run = load_run(top, ["train.seed=9", "model.state=16"])
    assert (run.text, run.output, run.data) == ("minilm", "second", "stores/x")
    assert (run.train.steps, run.train.batch, run.train.betas, run.train.seed) == (5, 3, (0.3, 0.4), 9)
    assert (run.model.variant, run.model.blocks, run.model.state) == ("cross-simba", 2, 16)
    assert "absent.yaml" in refused(config(tmp_path, {"base": "absent.yaml"}))
    assert "base" in refused(config(tmp_path, {"base": 5}))
    config(tmp_path, {"base": "b.yaml"}, "a.yaml")
    assert "base" in refused(config(tmp_path, {"base": "a.yaml"}, "b.yaml"))


def test_settings_are_read_as_yaml(tmp_path):
    """Over sections that are not in the file, too; numbers as YAML 1.1 misreads them; whole numbers for reals."""
    settings = ["train.learning_rate=1e-4", "train.betas=[9e-1, 0]", "prompts=[a song, b]", "train.warmup=7"]
    run = load_run(config(tmp_path, LM), [*settings, "clip_seconds=10", "model.variant=prefix-mamba", "codec=a=b"])
    assert run.train.learning_rate == 1e-4 and run.train.betas == (0.9, 0.0) and run.train.warmup == 7
    assert run.prompts == ("a song", "b") and run.model.variant == "prefix-mamba" and run.codec == "a=b"
    assert isinstance(run.clip_seconds, float)
    assert load_run(config(tmp_path, LM | {"train": {"weight_decay": "1e-2"}})).train.weight_decay == 0.01


def test_files_that_are_no_config(tmp_path):
    assert "does not exist" in refused(tmp_path / "absent.yaml")
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(config(tmp_path, "a: [1\nb: }"))
    assert "holds a list" in refused(config(tmp_path, "- a\n- b"))
    assert "holds a NoneType" in refused(config(tmp_path, ""))
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00data")
    assert "cannot be read" in refused(tmp_path / "run.yaml")
    assert "'1'" in refused(config(tmp_path, {1: 2, **LM}))
