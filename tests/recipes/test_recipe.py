"""The lists of recipes/pocket hold what its data card promises, and the pieces drawn by rule can be played."""

import csv
import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket"
sys.path.insert(0, str(RECIPE))

from music import chip, plan_rule, render, scores, styles  # noqa: E402

pytestmark = pytest.mark.slow

FREE = (
    "GPL",
    "LGPL",
    "CC-BY-3",
    "CC-BY-4",
    "CC-BY-SA",
    "CC0",
    "BSD",
    "Expat",
    "MIT",
    "Zlib",
    "ZLib",
    "public domain",
    "public-domain",
)


def lines(name: str) -> list[dict[str, str]]:
    with (RECIPE / "data" / name).open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("name", ["tracks.csv", "scores.csv", "takes.csv"])
def test_every_line_is_free_split_and_captioned(name):
    for row in lines(name):
        assert row["licence"].startswith(FREE) and "NC" not in row["licence"] and "ND" not in row["licence"], row
        assert row["split"] in ("train", "validation", "test")
        said = row["captions"].split(" | ")
        assert 2 <= len(said) <= 5 and all(len(c) >= 4 for c in said), row
        assert len(said[0].split()) <= 8, said[0]
        assert not any(word in row["captions"].lower() for word in ("vocal", "singer", "singing", "voice")), row


def test_no_composition_crosses_the_split():
    splits = defaultdict(set)
    for row in lines("scores.csv") + lines("takes.csv"):
        splits[row["path"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_no_two_lines_make_one_file():
    files = [row["file"] for name in ("scores", "takes") for row in render.read_scores(RECIPE / f"data/{name}.csv")]
    assert len(files) == len(set(files)) > 600


def test_takes_of_one_work_differ_and_say_how():
    works = defaultdict(list)
    for row in lines("takes.csv"):
        works[row["path"]].append(row)
        assert row["split"] == "train" and row["font"] in scores.SOUNDFONTS
    for takes in works.values():
        assert len({row["programs"] for row in takes}) == len(takes)
        assert len({row["captions"] for row in takes}) == len(takes)


def test_pieces_by_rule_are_in_the_list_and_playable():
    drawn = plan_rule.by_rule(random.Random(21))
    listed = {(r["style"], r["path"]): r for r in lines("scores.csv")}
    for row in drawn:
        assert {k: listed[row["style"], row["path"]][k] for k in row} == row
    for row in drawn[::7]:
        notes, programs = styles.play(row)
        long = max(n.start + n.length for n in notes) * 60 / float(row["bpm"])
        assert 40 < long < 60
        assert all(0 <= n.pitch < 128 and n.length > 0 and n.start >= 0 for n in notes)
        assert {n.channel for n in notes} <= {*programs, scores.DRUMS}
        assert scores.midi(notes, programs, float(row["bpm"])).startswith(b"MThd")


@pytest.mark.parametrize("duty", [0.125, 0.25, 0.5])
def test_the_chip_has_no_offset(duty):
    """A model learned the one that it had, and hummed."""
    wave = chip.pulse(pitch=69, seconds=0.5, duty=duty, vibrato=0.25, start=0)
    assert abs(wave.mean()) < 0.01 and wave.std() > 0.5


def test_files_have_no_offset_and_all_the_rest(tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 60 * np.arange(2 * scores.RATE) / scores.RATE)
    render.write_flac(tmp_path / "a.flac", tone + 0.2)
    found, rate = soundfile.read(tmp_path / "a.flac")
    assert rate == scores.RATE and abs(found[rate // 2 : -rate // 2].mean()) < 1e-3
    assert np.abs(found - tone)[rate // 2 : -rate // 2].max() < 0.01
