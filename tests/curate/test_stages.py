"""Each stage by itself: what it keeps, what it drops, and why."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunes import recipe_file, tune

from ostinato.curate.clip import Clip, Drop, Said, Track, share
from ostinato.curate.duplicates import same_recordings
from ostinato.curate.merge import by_rules, join_sentences, read_answer
from ostinato.curate.recipe import load_recipe
from ostinato.curate.stages import (
    STAGES,
    Captions,
    Context,
    Exclude,
    Licence,
    Silence,
    VocalWords,
    licence_name,
    silent_seconds,
)
from ostinato.curate.work import choose
from ostinato.utils.errors import UserError

TRACK = Track(id="a.flac", path="a.flac", suffix=".flac")


def clip_of(audio, rate=1000, start=0.0, **more):
    return Clip(TRACK, start, rate, np.asarray(audio, dtype=np.float32), **more)


@pytest.mark.parametrize(
    "text, name",
    [
        ("http://creativecommons.org/licenses/by-nc-sa/3.0/", "CC-BY-NC-SA"),
        ("Creative Commons Attribution-NonCommercial-NoDerivs 2.5", "CC-BY-NC-ND"),
        ("Creative Commons Attribution-No Derivative Works 3.0", "CC-BY-ND"),
        ("CC BY-SA 4.0", "CC-BY-SA"),
        ("cc-by-3.0", "CC-BY"),
        ("Creative Commons Attribution 3.0 France: by someone", "CC-BY"),
        ("CC0 1.0", "CC0"),
        ("Public Domain", "PD"),
        ("GPL-2+", "GPL-2+"),
        ("  ", ""),
    ],
)
def test_a_licence_has_one_name_however_it_is_written(text, name):
    assert licence_name(text) == name


def test_licences_are_chosen_by_name_by_nc_and_by_nd():
    def verdict(text, **options):
        track = Track(id="x", path="x", suffix="", licence=text)
        return STAGES["licence"].make(Licence(**options), Context())(track)

    assert verdict("CC BY-NC 3.0") != Drop("non-commercial licence", "CC-BY-NC")
    assert verdict("CC BY-NC 3.0", nc=False) == Drop("non-commercial licence", "CC-BY-NC")
    assert verdict("CC BY-ND 3.0", nd=False) == Drop("licence without derivatives", "CC-BY-ND")
    assert verdict("CC BY 3.0", nc=False, nd=False).id == "x"
    assert verdict("CC BY 3.0", allow=("CC0",)).reason == "licence not allowed"
    assert verdict("cc-by", allow=("CC BY",)).id == "x"
    assert verdict("", unknown=False).reason == "no licence is named"


def test_exclusion_lists_know_a_track_by_any_of_its_ids(tmp_path):
    (tmp_path / "song_describer.csv").write_text("caption_id,track_id,caption\n1,1004034,x\n2,77,y\n")
    (tmp_path / "own.txt").write_text("# mine\nfolder/b.mp3\n")
    options = Exclude((str(tmp_path / "song_describer.csv"), str(tmp_path / "own.txt")))
    check = STAGES["exclude"].make(options, Context())
    assert check(Track("34/1004034", "", "", ids=("1004034",))).reason == "on an exclusion list"
    assert "own.txt" in check(Track("folder/b.mp3", "", "")).detail
    assert check(Track("34/1004035", "", "", ids=("1004035",))).id == "34/1004035"
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="names no track"):
        STAGES["exclude"].make(Exclude((str(tmp_path / "empty.txt"),)), Context())


def test_published_captions_are_found_by_any_id_and_keep_their_writer(tmp_path):
    rows = [{"path": "00/1085700.mp3", "caption": "calm  piano\n"}, {"path": "07/7.mp3"}, {"path": "a", "caption": ""}]
    (tmp_path / "jamendo_qwen.json").write_text(json.dumps(rows))
    (tmp_path / "flamingo.json").write_text(json.dumps([{"path": "00/1085700.mp3", "caption": "a slow piece"}]))
    files = tuple(str(tmp_path / name) for name in ("jamendo_qwen.json", "flamingo.json"))
    add = STAGES["captions"].make(Captions(files), Context())
    of_jamendo = Track("00/1085700", "", ".mp3", ids=("1085700",))
    said = add(of_jamendo).captions
    assert [(one.text, one.by) for one in said] == [("calm piano", "jamendo_qwen"), ("a slow piece", "flamingo")]
    assert add(Track("00/1085700.mp3", "", "")).captions == said
    assert add(Track("07/7", "", "", ids=("7",))).reason == "no caption in the caption files"
    kept = STAGES["captions"].make(Captions(files, missing="keep"), Context())(Track("x.wav", "", ""))
    assert kept.captions == ()
    for text in ("{", "[]", '{"path": "a", "caption": "b"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=r"bad\.json"):
            STAGES["captions"].make(Captions((str(tmp_path / "bad.json"),)), Context())


@given(st.integers(0, 30), st.integers(0, 30))
def test_silence_is_counted_to_the_window(loud, quiet):
    audio = np.concatenate([np.full(loud * 50, 0.5), np.full(quiet * 50, 1e-4)])
    assert silent_seconds(audio, 1000, -50.0) == pytest.approx(quiet * 0.05)


def test_a_clip_with_more_silence_than_allowed_is_out():
    check = STAGES["silence"].make(Silence(max_seconds=15), Context())
    noise = 0.1 * np.random.default_rng(0).standard_normal(30 * 1000)
    noise[:14_900] = 0
    kept = check(clip_of(noise))
    assert kept.measured["silent_seconds"] == pytest.approx(14.9)
    noise[:15_100] = 0
    assert check(clip_of(noise)).reason == "silence"
    assert check(clip_of(np.zeros(30_000))).reason == "silence"


def test_vocal_words_drop_and_denials_pass_only_where_asked():
    strict = STAGES["vocal_words"].make(VocalWords(), Context())
    lenient = STAGES["vocal_words"].make(VocalWords(denials=True), Context())
    sung = clip_of([0], captions=(Said("a woman sings over piano", "x"),))
    denied = clip_of([0], captions=(Said("calm piano with no vocals or singing", "x"),))
    both = clip_of([0], captions=(Said("no vocals at first, then a choir", "x"),))
    plain = clip_of([0], caption="calm piano")
    assert [isinstance(strict(c), Drop) for c in (sung, denied, both, plain)] == [True, True, True, False]
    assert [isinstance(lenient(c), Drop) for c in (sung, denied, both, plain)] == [True, False, True, False]


def test_rules_join_what_captions_say_without_inventing():
    texts = ["Calm piano music. The recording is mono.", "Calm piano music!", "A slow cello joins the piano"]
    assert join_sentences(texts, 80) == "Calm piano music. A slow cello joins the piano."
    assert join_sentences(["one two three four. five six seven eight."], 5) == "one two three four."
    merged = by_rules(clip_of([0], captions=tuple(Said(t, "m") for t in texts)), 80, "rules")
    assert merged.caption_by == "rules"
    assert by_rules(clip_of([0]), 80, "rules").caption == ""
    single = by_rules(clip_of([0], captions=(Said("only this", "lp-musiccaps"),)), 80, "rules")
    assert (single.caption, single.caption_by) == ("only this", "lp-musiccaps")


@pytest.mark.parametrize(
    "answer", ["", "no", "{", '{"caption": 3}', '{"caption": ""}', "[1]", '{"caption": "a b"}', '{"text": "a b c d"}']
)
def test_an_answer_of_another_form_is_not_taken(answer):
    with pytest.raises(ValueError):
        read_answer(answer, 80)


def test_an_answer_is_taken_out_of_what_is_around_it():
    assert read_answer('Sure!\n```json\n{"caption": "calm  piano\\nmusic"}\n```', 80) == "calm piano music"
    with pytest.raises(ValueError, match="over 3"):
        read_answer('{"caption": "one two three four"}', 3)


@given(st.permutations(range(6)), st.integers(0, 5))
def test_the_one_clip_hangs_on_the_seed_only(order, seed):
    clips = [clip_of([0], start=float(i)) for i in range(6)]
    whole: list = []
    chosen = choose([clips[i] for i in order], seed, whole)
    in_parts: list = []
    part = choose([clips[i] for i in order[:3]], seed, in_parts)
    assert choose([*part, *[clips[i] for i in order[3:]]], seed, in_parts)[0].start == chosen[0].start
    assert len(whole) == len(in_parts) == 5


def test_choices_are_spread_evenly():
    shares = [share(0, f"track {i}") for i in range(2000)]
    assert np.histogram(shares, 10, (0, 1))[0].min() > 150
    assert min(shares) >= 0 and max(shares) < 1


def test_fingerprints_find_the_same_recording_shifted_and_damaged():
    rng = np.random.default_rng(0)
    prints = {f"t{i}": rng.integers(0, 2**32, 900, dtype=np.uint32) for i in range(20)}
    damaged = prints["t3"][40:].copy()
    damaged[::3] ^= np.uint32(1 << 7)
    found = same_recordings({**{k: v.tolist() for k, v in prints.items()}, "z": damaged.tolist()}, 0.2)
    assert found == {"z": "t3"}


def test_a_recipe_says_what_is_wrong_with_it(tmp_path):
    def load(text, *settings):
        return load_recipe(recipe_file(tmp_path, text), settings)

    with pytest.raises(UserError, match="did you mean 'silence'"):
        load("stages:\n  - cut\n  - silense: {}\n")
    with pytest.raises(UserError, match=r"unknown key 'silence\.max'"):
        load("stages:\n  - cut\n  - silence: {max: 3}\n")
    with pytest.raises(UserError, match="before 'cut'"):
        load("stages:\n  - cut\n  - exclude: {lists: [a.txt]}\n")
    with pytest.raises(UserError, match="put it last"):
        load("stages:\n  - cut\n  - one_clip\n  - silence\n")
    with pytest.raises(UserError, match="exactly once"):
        load("stages:\n  - silence\n")
    with pytest.raises(UserError, match="no line 'merge'"):
        load("stages:\n  - cut\n", "merge.model=x")
    recipe = load("stages:\n  - cut\n  - silence: {max_seconds: 3}\n", "silence.max_seconds=7", "seed=5")
    assert (recipe.find("silence").max_seconds, recipe.seed) == (7.0, 5)
    assert load("stages:\n  - cut\n  - silence\n", "silence=off").find("silence") is None


@pytest.mark.parametrize("name", ["data-paper", "data-attm", "data-free"])
def test_the_shipped_recipes_load(name):
    from pathlib import Path

    recipe = load_recipe(Path(__file__).parents[2] / f"configs/{name}.yaml")
    assert recipe.sample_rate == 44100 and recipe.cut.seconds == 30 and tune(0.1).any()
