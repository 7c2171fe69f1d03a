"""A whole run: list, scan, decide, work, and put the records together. Killed anywhere, it goes on by track."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from ostinato.curate.clip import Drop, Track
from ostinato.curate.dataset import Summary, assemble
from ostinato.curate.duplicates import check_duplicates
from ostinato.curate.pool import Died, each_in_pool
from ostinato.curate.recipe import Recipe
from ostinato.curate.scan import Facts, decide, scan, told_fault
from ostinato.curate.sources import list_tracks
from ostinato.curate.stages import Context
from ostinato.curate.work import (
    Out,
    Worker,
    make_worker,
    read_json,
    record_path,
    state_of,
    write_record,
)
from ostinato.utils.bars import Bars
from ostinato.utils.errors import UserError
from ostinato.utils.files import only_writer, write_atomic
from ostinato.utils.threads import one_thread

T = TypeVar("T")
Told = Callable[[float, float], None]  # seconds of music in, seconds kept


@dataclass(frozen=True)
class Machine:
    """Where the stages run. workers: processes of the pool; 0: in this one. ray: Ray Data instead of the pool, at this
    address ("local" starts one here)."""

    device: str = "cpu"
    workers: int = 1
    ray: str = ""


def curate(music: str, out: Path, recipe: Recipe, machine: Machine, progress: bool = True) -> Summary:
    """Turn a collection into a data set in `out`; see the package for what comes of it.

    Run again, it does only what is new, changed or not yet done, and puts all together anew: the result is that of a
    run from nothing, byte for byte of its Parquet.

    Raises: UserError for a collection or a recipe that cannot be, a stage that lacks something, an `out` that was made
    by another recipe or is in use, and a run in which no clip is left.
    """
    context = Context(machine.device, recipe.seed)
    if duplicates := recipe.find("duplicates"):
        check_duplicates(duplicates)
    for step in recipe.before_cut():
        if step.name not in ("read", "duplicates"):
            step.stage.make(step.options, context)  # a list that is missing is missed now, not after the scan
    if Path(music).is_dir() and out.resolve().is_relative_to(Path(music).resolve()):
        raise UserError(f"the data set {out} would lie inside the music in {music}: name a folder outside it")
    tracks = list_tracks(music)
    with only_writer(out):
        _agree(out, recipe)
        if machine.ray in ("", "local") and not (out / ".work").exists():
            make_worker(recipe, out, Context("cpu", recipe.seed))  # weights that are missing, too: a scan takes hours
        facts = _scan_all(tracks, recipe, out, machine, progress)
        tracks, decided = decide(tracks, facts, recipe, context)
        todo = [t for t in tracks if t.id not in decided and not _done(out, t, recipe)]
        if todo:
            _work_all(todo, facts, recipe, out, context, machine, progress)
        return assemble(out, recipe, tracks, facts, decided)


def _agree(out: Path, recipe: Recipe) -> None:
    """Write recipe.json, or check the recipe against it."""
    path = out / "recipe.json"
    there = read_json(path)
    asked = json.loads(json.dumps(recipe.as_dict()))
    if there == asked:
        return
    if there is not None and any((out / ".work").glob("*/*.json")):
        differ = _differing(there, asked)
        raise UserError(f"{out} was made by another recipe ({differ}): use that one, or curate into a new folder")
    if there is None and any((out / ".work").glob("*/*.json")):
        raise UserError(f"{out} has records but no recipe.json: curate into a new folder")
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(asked, indent=2) + "\n"))


def _differing(there: dict, asked: dict) -> str:
    """The first difference in words."""
    for key in asked:
        if key != "stages" and there.get(key) != asked[key]:
            return f"{key} {there.get(key)} there, {asked[key]} asked"
    pairs = zip(there.get("stages", []), asked["stages"], strict=False)
    for one, other in pairs:
        if one != other:
            return f"{json.dumps(one)} there, {json.dumps(other)} asked"
    return f"{len(there.get('stages', []))} stages there, {len(asked['stages'])} asked"


def _scan_path(out: Path, track: Track) -> Path:
    return record_path(out, track).with_suffix(".scan.json")


def _scan_all(tracks: list[Track], recipe: Recipe, out: Path, machine: Machine, progress: bool) -> dict[str, Facts]:
    facts, todo = {}, []
    for track in tracks:
        held = read_json(_scan_path(out, track))
        if track.fault:
            facts[track.id] = told_fault(track)
        elif held and held.get("state") == state_of(track, recipe):
            facts[track.id] = Facts(**{**held["facts"], "fingerprint": tuple(held["facts"]["fingerprint"])})
        else:
            todo.append(track)
    columns = (
        TextColumn("reading headers and fingerprints  {task.completed:.0f}/{task.total:.0f} tracks"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), disable=not (progress and todo)) as bar:
        task = bar.add_task("", total=len(todo))
        for track, found in each_in_pool(_scan_one, todo, _start_scan, (recipe,), machine.workers):
            if not isinstance(found, Facts):
                found = Facts(fault="reading it ended the process")
            facts[track.id] = found
            held = {"state": state_of(track, recipe), "facts": asdict(found)}
            path = _scan_path(out, track)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda temporary, held=held: temporary.write_text(json.dumps(held)))  # type: ignore[misc]
            bar.advance(task)
    return facts


def _done(out: Path, track: Track, recipe: Recipe) -> bool:
    record = read_json(record_path(out, track))
    return record is not None and record.get("state") == state_of(track, recipe)


def _work_all(
    todo: list[Track],
    facts: dict[str, Facts],
    recipe: Recipe,
    out: Path,
    context: Context,
    machine: Machine,
    progress: bool,
) -> None:
    pairs = [(track, facts[track.id]) for track in todo]
    if machine.ray:
        from ostinato.curate.ray_run import each_by_ray

        results: Iterable[tuple[tuple[Track, Facts], Any]] = each_by_ray(pairs, recipe, out, context, machine.ray)
    else:
        if machine.workers:
            make_worker(recipe, out, Context("cpu", recipe.seed))  # what is missing is told in this process, in words
        results = each_in_pool(_work_one, pairs, _start_work, (recipe, out, context), machine.workers)
    for (track, _), kept in _shown(results, pairs, progress):
        if isinstance(kept, Died):
            gone = Out(0.0, facts[track.id].seconds, "read", Drop("working on it ended the process"))
            write_record(out, track, recipe, [], [gone], {})


def _shown(
    results: Iterable[tuple[tuple[Track, Facts], Any]], pairs: list[tuple[Track, Facts]], progress: bool
) -> Iterator[tuple[tuple[Track, Facts], Any]]:
    """`results`, with a bar: hours in, hours kept, how many times as fast as they play, and the time left."""
    columns = (
        TextColumn("{task.fields[tracks]}/{task.fields[all]} tracks"),
        BarColumn(),
        TextColumn("{task.fields[heard]:.2f} h in, {task.fields[kept]:.2f} h kept"),
        TextColumn("{task.fields[rate]:.1f} x real time  left"),
        TimeRemainingColumn(),
    )
    total = sum(facts.seconds for _, facts in pairs)
    began, heard, kept, count = time.monotonic(), 0.0, 0.0, 0
    with Bars(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("", total=total, tracks=0, all=len(pairs), heard=0.0, kept=0.0, rate=0.0)
        for (track, facts), seconds in results:
            yield (track, facts), seconds
            heard, count = heard + facts.seconds, count + 1
            kept += 0.0 if isinstance(seconds, Died) else seconds
            rate = heard / max(1e-9, time.monotonic() - began)
            told: dict[str, Any] = {"tracks": count, "heard": heard / 3600, "kept": kept / 3600, "rate": rate}
            bar.update(task, completed=heard, **told)


# What follows runs in the processes of the pool; what it is started with stays in the process.
_here: dict[str, Any] = {}


def _start_scan(recipe: Recipe) -> None:
    _here["recipe"] = recipe


def _scan_one(track: Track) -> Facts:
    return scan(track, _here["recipe"])


def _start_work(recipe: Recipe, out: Path, context: Context) -> None:
    _here["worker"] = make_worker(recipe, out, context)


def _work_one(pair: tuple[Track, Facts]) -> float:
    worker: Worker = _here["worker"]
    with one_thread():
        return worker.do(*pair)
