"""The same stages through Ray Data: one machine or a cluster. Stages of one kind of work are one pool of actors; tracks
stream from pool to pool, and a pool that is behind holds back the one before it.

A row is a track with its clips so far; the last pool writes its files and its record, so OUT has to be one folder for
all machines.
"""

from __future__ import annotations

import os
import pickle
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Track
from ostinato.curate.recipe import Recipe, Step
from ostinato.curate.scan import Facts
from ostinato.curate.stages import Context
from ostinato.curate.work import Out, Worker, apply_stages, choose, make_codec, make_stages, one_thread, read_clips
from ostinato.utils.errors import UserError

Pair = tuple[Track, Facts]


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


class Actor:
    """One process of a pool."""

    def __init__(self, recipe: Recipe, out: str, context: Context, segment: Segment):
        self.segment, self.whole = segment, segment.first and segment.last
        codec = make_codec(recipe, context) if segment.last else None
        self.worker = Worker(recipe, Path(out), make_stages(segment.steps, context), codec)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        with one_thread():
            states = [self.step(pickle.loads(held)) for held in batch["state"]]
        return {"state": np.array([pickle.dumps(state) for state in states], dtype=object)}

    def step(self, state: State) -> Any:
        """A state with this pool's stages applied; after the last one the track's id and the seconds kept."""
        if self.whole:
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
) -> Iterator[tuple[Pair, float]]:
    """Each track with the seconds kept of it, as they are done. address: of a cluster, "auto", or "local".

    Raises: UserError where Ray is not installed or the cluster cannot be reached."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed: pip install 'ostinato[curate]', or take --local") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
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
    parts = segments(recipe, cpus)
    for part in parts:
        on_gpu = part.work == "gpu" and gpus
        rows = rows.map_batches(
            Actor,
            fn_constructor_args=(recipe, str(out.resolve()), context, part),
            batch_size=1,
            concurrency=gpus if on_gpu else (1, max(1, cpus // len(parts))),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        )
    by_id = {track.id: (track, facts) for track, facts in pairs}
    for row in rows.iter_rows():
        name, kept = pickle.loads(row["state"])
        yield by_id[name], float(kept)
