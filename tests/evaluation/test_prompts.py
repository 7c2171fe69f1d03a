import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostinato.evaluation.prompts import Prompt, PromptSet, load_prompts, sample
from ostinato.utils.errors import UserError


def table(path, rows, columns=("name", "caption")):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def test_captions_that_name_a_voice_are_left_out(tmp_path):
    rows = [
        ("a", "A calm piano piece"),
        ("b", "A female VOCALIST sings"),
        ("c", "no vocals, drums"),
        ("d", "Rapid trap"),
    ]
    path = table(tmp_path / "mine.csv", rows)
    kept = load_prompts(str(path))
    assert sorted(p.name for p in kept.prompts) == ["a", "d"]
    assert kept.about["left_out_for_vocals"] == 2 and kept.about["captions"] == 4 and kept.name == "mine"
    assert len(load_prompts(str(path), vocals=True)) == 4


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_a_smaller_draw_begins_a_larger_one(few, many, seed):
    few, many = sorted((few, many))
    whole = PromptSet("x", tuple(Prompt(f"{i}", f"tune {i}") for i in range(30)))
    larger = sample(whole, many, seed).prompts
    assert sample(whole, few, seed).prompts == larger[:few]
    assert len(set(larger)) == many
    shuffled = PromptSet("x", tuple(reversed(whole.prompts)))
    assert sample(shuffled, many, seed).prompts == larger  # whatever order the file has


def test_the_sets_of_the_papers_are_read(tmp_path):
    musiccaps = table(
        tmp_path / "m.csv", [("-0x", "30", 'tune, with "quotes"\nand lines')], ("ytid", "start_s", "caption")
    )
    (prompt,) = load_prompts(f"musiccaps:{musiccaps}").prompts
    assert prompt.name == "-0x" and prompt.text.endswith("and lines") and prompt.real == ("-0x",)
    rows = [("7", "100", "one", "00/100.mp3"), ("8", "100", "two", "00/100.mp3")]
    sdd = table(tmp_path / "s.csv", rows, ("caption_id", "track_id", "caption", "path"))
    both = load_prompts(f"song-describer:{sdd}").prompts
    assert {p.name: p.real for p in both} == {"7": ("7", "100.2min", "100"), "8": ("8", "100.2min", "100")}


@pytest.mark.parametrize(
    "rows, columns, message",
    [
        ([], ("name", "caption"), "no captions"),
        ([("a", "b")], ("name", "words"), "no column caption"),
        ([("a", "one"), ("x/a.wav", "two")], ("path", "caption"), "rows 1 and 2: both are named 'a'"),
        ([("a", "")], ("name", "caption"), "row 1: no caption"),
        ([("a", "a singer")], ("name", "caption"), "names a voice"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, rows, columns, message):
    with pytest.raises(UserError, match=message):
        load_prompts(str(table(tmp_path / "t.csv", rows, columns)))


def test_sets_that_are_not_to_be_had_are_told(tmp_path):
    for spec, message in (
        ("attm", "not public"),
        ("musicaps", "no prompt set"),
        (str(tmp_path / "no.csv"), "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            load_prompts(spec)
    path = table(tmp_path / "t.csv", [("a", "one")])
    with pytest.raises(UserError, match="2 prompts were asked, and t has 1"):
        load_prompts(str(path), 2)
