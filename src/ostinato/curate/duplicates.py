"""The same recording twice: by the acoustic fingerprints of chromaprint (fpcalc), or byte by byte.

A fingerprint is a 32-bit integer about every 0.124 s, of which other encodings of a recording change a few bits. Two
tracks are compared where they share whole integers at one offset; they are one recording where, laid over each other
there, less than a share of the bits differ over most of the shorter.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from ostinato.curate.stages import Duplicates
from ostinato.utils.errors import UserError

FPCALC_SECONDS = 300  # fpcalc is given so long: a file that hangs it is not a reason to hang
EVERY = 8  # one integer of so many is looked up, chosen by its value, so the same ones in every track
COMMON = 50  # an integer in more tracks than this says nothing (silence, a steady tone)
VOTES = 3  # shared integers at one offset before two tracks are compared
OVERLAP = 0.6  # of the shorter fingerprint that has to lie over the other
SHORTEST = 40  # integers (5 s) under which a fingerprint tells too little


def check_duplicates(options: Duplicates) -> None:
    """Raises: UserError where fpcalc is wanted and missing, or `by` is unknown."""
    if options.by not in ("fingerprint", "bytes"):
        raise UserError(f"duplicates.by {options.by!r}: give fingerprint or bytes")
    if options.by == "fingerprint" and not shutil.which("fpcalc"):
        raise UserError(
            "duplicates.by fingerprint needs chromaprint's fpcalc, which is not installed: apt-get install "
            "libchromaprint-tools (brew: chromaprint), or --set duplicates.by=bytes, which finds exact copies only"
        )


def fingerprint(path: Path, seconds: float) -> list[int]:
    """uint32 about every 0.124 s of the first `seconds` of a file; [] where fpcalc makes nothing of it."""
    command = ["fpcalc", "-raw", "-json", "-length", str(round(seconds)), str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FPCALC_SECONDS, stdin=subprocess.DEVNULL)
        return [int(value) & 0xFFFFFFFF for value in json.loads(done.stdout)["fingerprint"]]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return []


def same_recordings(fingerprints: dict[str, list[int]], error: float) -> dict[str, str]:
    """Track -> the first track (by id) that is the same recording, for every track that is not the first.

    error: share of differing bits under which two are one; two that are not related differ in about half."""
    prints = {name: np.array(values, dtype=np.uint32) for name, values in sorted(fingerprints.items())}
    prints = {name: values for name, values in prints.items() if len(values) >= SHORTEST}
    places: dict[int, list[tuple[str, int]]] = defaultdict(list)
    found: dict[str, str] = {}
    for name, values in prints.items():
        chosen = np.flatnonzero(_scrambled(values) % EVERY == 0)
        votes: Counter[tuple[str, int]] = Counter()
        for at in chosen.tolist():
            for other, there in places[int(values[at])][:COMMON]:
                votes[other, there - at] += 1
        for (other, offset), count in sorted(votes.items(), key=lambda item: (-item[1], item[0])):
            if count < VOTES:
                break
            if _differing(prints[other], values, offset) < error:
                found[name] = other
                break
        if name not in found:
            for at in chosen.tolist():
                places[int(values[at])].append((name, at))
    return found


def _scrambled(values: np.ndarray) -> np.ndarray:
    """A hash of each: neighbouring fingerprints differ in few bits, so the low ones alone would choose unevenly."""
    return (values.astype(np.uint64) * 2654435761 >> 16) & 0xFFFF


def _differing(one: np.ndarray, other: np.ndarray, offset: int) -> float:
    """Share of bits in which `other`, laid `offset` integers later over `one`, differs; 1 for too little overlap."""
    start, end = max(0, offset), min(len(one), len(other) + offset)
    if end - start < OVERLAP * min(len(one), len(other)):
        return 1.0
    different = one[start:end] ^ other[start - offset : end - offset]
    return float(np.unpackbits(different.view(np.uint8)).mean())


def same_bytes(digests: dict[str, str]) -> dict[str, str]:
    """Track -> the first track (by id) with the same sha256, for every track that is not the first."""
    first: dict[str, str] = {}
    return {name: first[digest] for name, digest in sorted(digests.items()) if first.setdefault(digest, name) != name}
