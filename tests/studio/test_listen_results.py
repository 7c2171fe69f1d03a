"""The numbers of listening tests: against published examples, and against the marks that were given."""

import csv
import json
import math

import numpy as np
import pytest
import soundfile as sf
from test_cli import ostinato
from test_listen import SYSTEMS, Listener, folders, listener_files, prepared, served

from ostinato.evaluation.reporting.paper_numbers import TABLE_3, TABLE_4
from ostinato.evaluation.reporting.report import report
from ostinato.studio.listen import statistics
from ostinato.studio.listen.manifest import SCALES, read_test
from ostinato.studio.listen.results import results


def test_alpha_is_that_of_krippendorffs_example():
    """Four observers, twelve units with values missing; "Computing Krippendorff's Alpha-Reliability" (2011), part E:
    0.815 for ordinal data."""
    N = math.nan
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
    assert round(statistics.ordinal_alpha(np.array(data, float)), 3) == 0.815
    assert statistics.ordinal_alpha(np.array([[1, 2, 5.0], [1, 2, 5]])) == 1
    assert statistics.ordinal_alpha(np.array([[3.0, 3], [3, 3]])) is None
    chance = np.random.default_rng(0).integers(1, 6, (40, 200)).astype(float)
    assert abs(statistics.ordinal_alpha(chance)) < 0.02


def test_strengths_are_those_of_agrestis_baseball():
    """American League 1987, in Agresti, "Categorical Data Analysis": strengths over Baltimore's."""
    wins = [
        [0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0],
    ]  # fmt: skip
    found = statistics.bradley_terry(np.array(wins, float))
    assert np.round(found - found[-1], 3) == pytest.approx([1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0], abs=1e-3)
    unbeaten = statistics.bradley_terry(np.array([[0, 9.0], [0, 0]]), prior=1.0)
    assert np.isfinite(unbeaten).all() and unbeaten[0] == pytest.approx(math.log(9.5 / 0.5) / 2)


def test_many_ratings_of_few_listeners_do_not_pass_for_many_listeners():
    """Listeners who differ by a standard deviation of 1 and agree with themselves: the mean is known to 1 / sqrt(L)."""
    rng, L, P = np.random.default_rng(3), 16, 40
    marks = np.repeat(rng.standard_normal((L, 1)), P, 1)
    of_listener, of_prompt = statistics.weights(L, P, 2000, 0)
    sums = statistics.weighted_sums(marks[..., None], of_listener, of_prompt)
    low, high = statistics.interval((sums / statistics.weighted_sums(np.ones((L, P, 1)), of_listener, of_prompt))[:, 0])
    right = 2 * 1.96 * marks[:, 0].std() / math.sqrt(L)
    assert 0.85 < (high - low) / right < 1.15


@pytest.mark.slow
def test_the_numbers_are_those_of_the_marks(tmp_path):
    """Marks by a rule: mean and standard deviation are the paper's, unfinished pages do not count, everything is in the
    CSV, and the report has them beside the paper's."""
    folder = prepared(tmp_path, attention=True)
    test = read_test(folder)
    of = {s.file: s for s in test.stimuli}
    given = {name: [] for name in SYSTEMS}
    with served(folder) as (_, address):
        for number in range(6):
            listener = Listener(address)
            state = listener.begin()
            while state["stage"] == "page":
                files = listener_files(folder, listener, state)
                careless = number == 5

                def mark(i, scale, files=files, number=number, careless=careless):
                    if beeps := of[files[i]].beeps:
                        return 6 - beeps if careless and beeps != 3 else 1 if careless else beeps
                    value = 1 + (of[files[i]].system + of[files[i]].prompt + number) % 5
                    if scale == "overall":
                        given[SYSTEMS[of[files[i]].system]].append((number, value))
                    return value

                state = listener.rate_page(state, mark)
        late = Listener(address)
        clip = late.begin()["clips"][0]["id"]
        assert late.post("/api/rating", clip=clip, scale="overall", value=1)[0] == 200
        said = results(folder)
        strict = results(folder, tmp_path / "strict", only_passed=True)
    assert said["raters"] == 6 and said["sessions"] == {"begun": 7, "finished": 6, "failed": 1}
    for name in SYSTEMS:
        for numbers, who in ((said, 6), (strict, 5)):
            values = [value for number, value in given[name] if number < who]
            score = numbers["scores"][name]["overall"]
            assert score["n"] == len(values) == 3 * who and score["mean"] == pytest.approx(np.mean(values))
            assert score["std"] == pytest.approx(np.std(values, ddof=1))
            assert score["low"] <= score["mean"] <= score["high"]
    rows = list(csv.DictReader((folder / "results" / "ratings.csv").open()))
    assert (
        len(rows) == 6 * (3 * 3 + 1) * 3 + 1
    )  # listeners x (prompts x systems + attention clip) x scales; one is late
    counted = [r for r in rows if r["counted"] == "True" and r["scale"] == "overall"]
    assert sorted(float(r["value"]) for r in counted) == sorted(v for pairs in given.values() for _, v in pairs)
    text = report([], [], tmp_path / "report", listening=[folder])[0].read_text()
    third = text.partition("## Table III")[2].partition("##")[0]
    mean, std = (said["scores"]["ssm-100k"]["overall"][key] for key in ("mean", "std"))
    (line,) = (line for line in third.splitlines() if "SSM (100k) (ours: ssm-100k)" in line)
    assert f"{mean:.2f} ± {std:.2f}" in line and "3.42 ± 1.00" in line and "3.65 ± 0.89" in line
    assert "Transformer (400k) (ours: transformer-400k)" in third and "| MusicGen-small (ours: musicgen-small)" in third
    assert "| SSM (50k) |" in third and "6 raters" in third
    for row in TABLE_3:
        assert all(f"{m:.2f} ± {s:.2f}" in third for m, s in row.opinions.values())


def test_models_of_several_sizes_are_table_fours(tmp_path):
    folder = prepared(tmp_path, ("blocks-24", "blocks-6"), prompts=3)
    with served(folder) as (_, address):
        for _ in range(2):
            listener = Listener(address)
            state = listener.begin()
            while state["stage"] == "page":
                state = listener.rate_page(state, lambda i, scale: 4 - i)
    results(folder)
    text = report([], [], tmp_path / "report", listening=[folder])[0].read_text()
    fourth = text.partition("## Table IV")[2]
    assert "24 blocks (ours: blocks-24)" in fourth and "| Prefix SiMBA/Diffusion, 12 blocks |" in fourth
    for row in TABLE_4:
        assert all(f"{m:.2f} ± {s:.2f}" in fourth for m, s in row.opinions.values())
    assert "Table III" in text.partition("## Not drawn")[2]


@pytest.mark.slow
def test_pairs_give_strengths(tmp_path):
    """Listeners who always prefer the later system, hear all of every clip first, and pass the checks."""
    folder = prepared(tmp_path, mode="pairs", session=4, attention=True, headphones=True, heard_in_full=True)
    test = read_test(folder)
    of = {s.file: s for s in test.stimuli}
    with served(folder) as (_, address):
        for _ in range(3):
            listener = Listener(address)
            assert listener.begin() == {"stage": "headphones"}
            answers = [trial.answer for trial in test.trials]
            assert listener.post("/api/headphones", answers=answers[:3])[0] == 400
            assert listener.ask("GET", "/check/0")[0] == listener.ask("GET", "/check/volume")[0] == 200
            state = listener.post("/api/headphones", answers=answers)[1]["state"]
            pages = 0
            while state["stage"] == "page":
                files = listener_files(folder, listener, state)
                clip = state["clips"][0]["id"]
                assert listener.post("/api/rating", clip=clip, scale="overall", value=1)[0] == 409  # not heard yet
                for c in state["clips"]:
                    listener.post("/api/heard", clip=c["id"], share=1)
                first, second = (of[f] for f in files)
                better = bool(first.beeps) if first.beeps or second.beeps else first.system > second.system
                for scale in SCALES:
                    assert listener.post("/api/rating", clip=clip, scale=scale, value=int(better))[0] == 200
                state = listener.post("/api/page", page=state["page"])[1]["state"]
                pages += 1
            assert state["stage"] == "thanks" and pages == 5
    said = results(folder, only_passed=True)
    assert said["raters"] == 3 and said["sessions"]["failed"] == 0
    order = [said["strengths"][name]["overall"] for name in SYSTEMS]
    assert order[0]["value"] < order[1]["value"] < order[2]["value"]
    assert order[0]["preferred"] == 0 and order[2]["preferred"] == 1 and sum(s["n"] for s in order) == 2 * 3 * 4
    assert "Bradley-Terry" in report([], [], tmp_path / "report", listening=[folder])[0].read_text()


def test_rows_of_an_evaluation_are_systems_and_find_their_places(tmp_path, capfd):
    """Models by what results.json says of them, sentences by its prompt set; real and lost clips are none of them."""
    clips = folders(tmp_path / "clips", ("a", "b", "real"))
    for file in (tmp_path / "clips").glob("*/*.wav"):
        audio, rate = sf.read(file)
        sf.write(file, audio, rate)  # without tags
    (tmp_path / "set.csv").write_text("name,caption\n" + "".join(f"tune{i},sentence {i}\n" for i in range(4)))
    about = {"variant": "prefix-simba", "fine": "unet", "codebooks": 9, "blocks": 24, "step": 60_000, "parameters": 1}
    rows = [
        {"name": "mine", "kind": "model", "folder": clips[0], "about": about, "lost": {"tune3": "hum"}},
        {"name": "theirs", "kind": "model", "folder": clips[1], "lost": {}}
        | {"about": {"variant": "musicgen", "parameters": 4e8}},
        {"name": "real", "kind": "real", "folder": clips[2], "about": {}, "lost": {}},
    ]
    prompts = {"set": "set", "source": str(tmp_path / "set.csv")}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.json").write_text(
        json.dumps({"rows": rows, "settings": {"seconds": 25.0}, "prompts": prompts, "listeners": {}})
    )
    folder = tmp_path / "test"
    ostinato(
        "listen", "prepare", tmp_path / "evaluation", "--reference", clips[2], "--anchor", "--prompts", 2, "-o", folder
    )
    assert "4 systems, 3 prompts, 12 clips" in capfd.readouterr().out
    test = read_test(folder)
    assert [p.text for p in test.prompts] == ["sentence 0", "sentence 1", "sentence 2"]
    assert [s.name for s in test.systems] == ["mine", "theirs", "reference", "anchor"]
    with served(folder) as (_, address):
        listener = Listener(address)
        state = listener.begin()
        while state["stage"] == "page":
            state = listener.rate_page(state, lambda i, scale: 5 - i)
    ostinato("listen", "results", folder)
    assert "| mine |" in capfd.readouterr().out
    ostinato("report", "--listening", folder, "-o", tmp_path / "report")
    third = (tmp_path / "report" / "report.md").read_text().partition("## Table III")[2]
    assert "| SSM (50k) (ours: mine) |" in third and "| MusicGen-small (ours: theirs) |" in third
    assert "| ours: anchor |" in third
