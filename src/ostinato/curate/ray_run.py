"""The same stages through Ray Data: one machine or a cluster. Stages of one kind of work are one pool of actors; tracks
stream from pool to pool, and a pool that is behind holds back the one before it.

A row is a track with its clips so far; the last pool writes its files and its record, so OUT has to be one folder for
all machines.
"""

from __future__ import annotations

import logging
import os
import pickle
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Track
from ostinato.curate.pool import Died
from ostinato.curate.recipe import Recipe, Step
from ostinato.curate.scan import Facts
from ostinato.curate.stages import Context
from ostinato.curate.work import (
    Out,
    Worker,
    apply_stages,
    choose,
    make_codec,
    make_stages,
    read_clips,
    record_path,
)
from ostinato.utils.errors import UserError
from ostinato.utils.threads import one_thread

Pair = tuple[Track, Facts]
QUIET: Any = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}
TRIES = 2  # how often a track may end its process, as in `pool`


@dataclass(frozen=True)
class Segment:
    """Consecutive stages that one pool of actors runs. first: it reads and cuts; last: it chooses, writes, records."""

    steps: tuple[Step, ...]
    work: str
    first: bool
    last: bool


@dataclass
class State:
    """A track on its way between two pools."""

    track: Track
    facts: Facts
    clips: list[Clip] = field(default_factory=list)
    dropped: list[Out] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def segments(recipe: Recipe, most: int) -> list[Segment]:
    """The stages after `cut` by kind of work; all in one where there are more kinds than `most`, or where a track stops
    at its first clip that passes."""
    one = recipe.find("one_clip")
    steps = [step for step in recipe.after_cut() if step.name != "one_clip"]
    groups: list[list[Step]] = [[]]
    kinds = ["cpu"]
    for step in steps:
        if step.stage.work != kinds[-1]:
            groups.append([])
            kinds.append(step.stage.work)
        groups[-1].append(step)
    if len(groups) > most or (one and one.stop_early):
        groups, kinds = [steps], ["gpu" if "gpu" in kinds else kinds[-1]]
    end = len(groups) - 1
    return [Segment(tuple(g), k, i == 0, i == end) for i, (g, k) in enumerate(zip(groups, kinds, strict=True))]


# What comes of a track: its id with the seconds kept, what ended it, or why no track can go on.
Result = tuple[str, float | Died | UserError]


class Actor:
    """One process of a pool. run: names this run among those into `out`."""

    def __init__(self, recipe: Recipe, out: str, context: Context, segment: Segment, run: str):
        self.out, self.segment, self.run = Path(out), segment, run
        self.fault: UserError | None = None
        try:
            codec = make_codec(recipe, context) if segment.last else None
            self.worker = Worker(recipe, self.out, make_stages(segment.steps, context), codec)
        except UserError as error:  # Ray would bury its words: it goes through the pools in place of a track
            self.fault = error

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        with one_thread():
            states = [self.go_on(pickle.loads(held)) for held in batch["state"]]
        return {"state": np.array([pickle.dumps(state) for state in states], dtype=object)}

    def go_on(self, held: State | Result) -> State | Result:
        """`step`, unless something ended it. Ray hands a track whose process died to another one for ever: here the
        second time is the last."""
        if not isinstance(held, State):
            return held
        if self.fault:
            return held.track.id, self.fault
        mark = record_path(self.out, held.track).with_suffix(".tries")
        tries = mark.read_text().split() if mark.exists() else []
        if tries.count(self.run) >= TRIES:
            return held.track.id, Died()
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(" ".join([*tries, self.run]))
        try:
            return self.step(held)
        except UserError as error:
            return held.track.id, error
        finally:
            mark.unlink(missing_ok=True)

    def step(self, state: State) -> State | Result:
        """A state with this pool's stages applied; after the last one the track's id and the seconds kept."""
        if self.segment.first and self.segment.last:
            return state.track.id, self.worker.do(state.track, state.facts)
        recipe, stages = self.worker.recipe, self.worker.stages
        if self.segment.first:
            state.clips = read_clips(state.track, recipe, stages, state.spent, state.dropped)
        else:
            state.clips = apply_stages(state.clips, stages, state.spent, state.dropped)
        if not self.segment.last:
            return state
        if recipe.find("one_clip"):
            state.clips = choose(state.clips, recipe.seed, state.dropped)
        dropped = sorted(state.dropped, key=lambda out: out.start)
        return state.track.id, self.worker.finish(state.track, state.clips, dropped, state.spent)


def each_by_ray(
    pairs: list[Pair], recipe: Recipe, out: Path, context: Context, address: str
) -> Iterator[tuple[Pair, float | Died]]:
    """Each track with the seconds kept of it, as they are done. address: of a cluster, "auto", or "local".

    Raises: UserError where Ray is not installed, the cluster cannot be reached or a stage cannot be made, and what a
    stage raises."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'ostinato[curate]', or take --local") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it has a word for every step, between the bars
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "local" else address, **QUIET)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray at {address!r} ({error}): start one with `ray start --head`, or --local"
            ) from error
    cpus = int(ray.cluster_resources().get("CPU", 1))
    gpus = int(ray.cluster_resources().get("GPU", 0)) if context.device.startswith("cuda") else 0
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows: Any = ray.data.from_items(
        [{"state": pickle.dumps(State(track, facts))} for track, facts in pairs],
        override_num_blocks=max(1, min(len(pairs), 8 * cpus)),
    )
    parts, run = segments(recipe, cpus), uuid.uuid4().hex
    for part in parts:
        on_gpu = part.work == "gpu" and gpus
        least, most = (gpus, gpus) if on_gpu else (1, max(1, cpus // len(parts)))
        pool = ray.data.ActorPoolStrategy(min_size=least, max_size=most)
        rows = rows.map_batches(
            Actor,
            fn_constructor_args=(recipe, str(out.resolve()), context, part, run),
            batch_size=1,
            compute=pool,
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        )
    by_id = {track.id: (track, facts) for track, facts in pairs}
    for row in rows.iter_rows():
        name, kept = pickle.loads(row["state"])
        if isinstance(kept, UserError):
            raise kept
        yield by_id[name], kept
