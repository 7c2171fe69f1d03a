"""What is read of every track before anything is decided: header, checksum, fingerprint. Cheap next to all that
follows, and needed of all tracks at once to find duplicates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf

from ostinato.curate.clip import Drop, Track
from ostinato.curate.duplicates import check_duplicates, fingerprint, same_bytes, same_recordings
from ostinato.curate.recipe import Recipe
from ostinato.curate.sources import as_file
from ostinato.curate.stages import Context, Read
from ostinato.utils.errors import UserError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Facts:
    """Of one track, from its header: seconds, rate (Hz), channels, form ("FLAC, Signed 16 bit PCM"). fault: why it is
    out, with a detail."""

    seconds: float = 0.0
    rate: int = 0
    channels: int = 0
    form: str = ""
    sha256: str = ""
    fingerprint: tuple[int, ...] = ()
    fault: str = ""
    detail: str = ""


def scan(track: Track, recipe: Recipe) -> Facts:
    """Never raises for what is wrong with a track: that is its fault."""
    if track.fault:
        return told_fault(track)
    read = recipe.find("read") or Read()
    duplicates = recipe.find("duplicates")
    try:
        with as_file(track) as path:
            if not path.stat().st_size:
                return Facts(fault="empty (0 bytes)")
            digest = _digest(path) if track.sha256 or (duplicates and duplicates.by == "bytes") else ""
            if read.checksums and track.sha256 and digest != track.sha256:
                return Facts(fault="not the file that was published (sha256 differs)", detail=f"{digest[:16]}...")
            with sf.SoundFile(path) as file:
                seconds = file.frames / file.samplerate
                form = f"{file.format}, {file.subtype_info}"
                known = {"seconds": seconds, "rate": file.samplerate, "channels": file.channels, "form": form}
            if not 0 < seconds < float("inf"):
                return Facts(fault="no samples", **known)
            if seconds > read.max_hours * 3600:
                return Facts(fault=f"over {read.max_hours:g} h", detail=f"{seconds / 3600:.2f} h", **known)
            if seconds < read.min_seconds:
                return Facts(fault=f"under {read.min_seconds:g} s", detail=f"{seconds:.2f} s", **known)
            marks: tuple[int, ...] = ()
            if duplicates and duplicates.by == "fingerprint":
                marks = tuple(fingerprint(path, duplicates.seconds))
            return Facts(sha256=digest, fingerprint=marks, **known)
    except UserError as error:
        return Facts(fault="cannot be read", detail=str(error))
    except (sf.LibsndfileError, OSError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
        return Facts(fault="cannot be read", detail=reason.strip().rstrip("."))


def told_fault(track: Track) -> Facts:
    """The fault that the listing found: a reason, and after a colon its detail."""
    reason, _, detail = track.fault.partition(": ")
    return Facts(fault=reason, detail=detail)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decide(
    tracks: list[Track], facts: dict[str, Facts], recipe: Recipe, context: Context
) -> tuple[list[Track], dict[str, tuple[str, Drop]]]:
    """The tracks as the stages before `cut` leave them, and which are out, by which stage: in the order of the recipe,
    each stage seeing what those before left in."""
    out: dict[str, tuple[str, Drop]] = {}
    known = {track.id: track for track in tracks}
    for track in tracks:
        if facts[track.id].fault:
            out[track.id] = ("read", Drop(facts[track.id].fault, facts[track.id].detail))
    for step in recipe.before_cut():
        left = [track for track in known.values() if track.id not in out]
        if step.name == "duplicates":
            check_duplicates(step.options)
            if step.options.by == "bytes":
                twins = same_bytes({t.id: facts[t.id].sha256 for t in left})
            else:
                marks = {t.id: list(facts[t.id].fingerprint) for t in left}
                twins = same_recordings(marks, step.options.error)
            out |= {name: ("duplicates", Drop("a duplicate", f"of {twin}")) for name, twin in twins.items()}
        elif step.name != "read":
            check = step.stage.make(step.options, context)
            for track in left:
                if isinstance(done := check(track), Drop):
                    out[track.id] = (step.name, done)
                else:
                    known[track.id] = done
    return list(known.values()), out
