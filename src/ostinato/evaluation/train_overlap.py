"""What the clips of a row share with the store their model was trained on: `memorisation` applied to an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ostinato.codecs.base import Codec, fingerprint
from ostinato.codecs.load import load_codec
from ostinato.data.store import Store, open_store, spread
from ostinato.evaluation import memorisation, metrics
from ostinato.evaluation.embed import ClipSet, Embeddings
from ostinato.evaluation.generate import OnProgress, clip_codes
from ostinato.utils.audio import write_audio
from ostinato.utils.errors import UserError

HEARD = 200  # clips of the store that are decoded and listened to, on either side


class TrainingStore:
    """A store of codes beside an evaluation: what was trained on, and what was held out (validation and test)."""

    def __init__(self, path: Path, seconds: float, device: str):
        """Raises UserError for a store of audio, one without held-out clips, or one whose codec is not available."""
        store = open_store(path)
        if store.info["kind"] != "codes":
            raise UserError(f"{path} holds audio, not codes: give the store that the model was trained on")
        self.trained = store.split("train")
        held = [part for name in ("test", "validation") if len(part := store.split(name))]
        if not len(self.trained) or not held:
            raise UserError(f"{path} needs clips to train on and clips held out, to compare with; it lacks one of them")
        self.held_out = held[0]
        self.codec: Codec = load_codec(store.info["codec"], device)
        if fingerprint(self.codec) != store.info["codec_id"]:
            raise UserError(
                f"{path} was made with codec {store.info['codec_id']}, and {store.info['codec']} is another"
            )
        self.seconds, self.frames = seconds, round(seconds * store.info["frame_rate"])
        self.size, self.frame_rate = store.info["codebook_size"], store.info["frame_rate"]

    def clips(self, output: Path, on_progress: OnProgress) -> tuple[ClipSet, ClipSet]:
        """Some of the trained and of the held-out clips as audio, decoded into `output` where it lacks them."""
        return tuple(self._decoded(s, output / n, n, on_progress) for s, n in self._sides())  # type: ignore[return-value]

    def _sides(self) -> list[tuple[Store, str]]:
        return [(self.trained, "trained"), (self.held_out, "held-out")]

    def _decoded(self, store: Store, folder: Path, name: str, on_progress: OnProgress) -> ClipSet:
        folder.mkdir(parents=True, exist_ok=True)
        found = ClipSet(name, {})
        chosen = spread(len(store), HEARD)
        device = next(self.codec.parameters()).device  # type: ignore[attr-defined]
        for n, i in enumerate(chosen):
            on_progress(f"decoding {name} clips", n, len(chosen))
            path = folder / f"{i:07d}.wav"
            if not path.is_file():
                codes = store.codes(i)[:, : self.frames]
                with torch.inference_mode():
                    audio = self.codec.decode(codes[None].to(device))[0].clamp(-1, 1).cpu()
                write_audio(path, audio, self.codec.sample_rate)
            found.files[path.stem] = path
        return found

    def overlap(self, rows: Sequence[ClipSet], on_progress: OnProgress) -> list[dict]:
        """For each row the longest runs of coarse codes and the nearest clips in codes, beside those of held-out music
        of the same length."""
        on_progress("reading the training codes", 0, 1)
        trained = memorisation.store_symbols(self.trained, 1)
        held = [s[: self.frames] for s in memorisation.store_symbols(self.held_out, 1)]
        sets = []
        for row in rows:
            on_progress(f"codes of {row.name}", 0, 1)
            codes = clip_codes(row, self.codec, self.seconds)
            sets.append({stem: memorisation.symbols(c, 1, self.size)[: self.frames] for stem, c in codes.items()})
        played = [symbols for found in sets for symbols in found.values()]
        on_progress("comparing codes", 0, 1)
        runs = memorisation.longest_runs(played + held, trained, least=round(self.frame_rate))
        near = memorisation.nearest_by_codes(played + held, trained)
        held_runs, held_near = runs[len(played) :], [share for _, share in near[len(played) :]]
        out: list[dict] = []
        first = 0
        for found in sets:
            part, last = runs[first : first + len(found)], first + len(found)
            if not part:
                out.append({})
                continue
            shares = [share for _, share in near[first:last]]
            most = sorted(zip(part, found, strict=True), key=lambda pair: -pair[0].frames)[:3]
            out.append(
                {
                    "runs": memorisation.compare_runs(part, held_runs, self.frame_rate),
                    "longest": [self._told(run, stem) for run, stem in most],
                    "nearest_codes": float(np.mean(shares)),
                    "held_out_nearest_codes": float(np.mean(held_near)),
                }
            )
            first = last
        return out

    def _told(self, run: memorisation.Run, stem: str) -> dict:
        row = self.trained.row(run.clip)
        return {
            "clip": stem,
            "seconds": run.frames / self.frame_rate,
            "at": run.start / self.frame_rate,
            "distinct_codes": run.distinct,
            "training_clip": row["id"],
            "training_at": run.clip_start / self.frame_rate,
        }


def nearest_embeddings(made: dict[str, Path], trained: dict[str, Path], held_out: dict[str, Path]) -> dict[str, float]:
    """Mean and largest cosine of a row's clips to the nearest training clip, and those of held-out clips, all around
    the training clips' mean. Each is what one listener heard, by stem."""
    clips = {name: Embeddings(list(heard.values())) for name, heard in (("t", trained), ("m", made), ("h", held_out))}
    centre = np.mean([clip.mean(0, dtype=np.float64) for clip in clips["t"]], axis=0)
    units = {name: metrics.unit_clips(heard, centre) for name, heard in clips.items()}
    near, usual = (memorisation.nearest_by_embedding(units[name], units["t"])[1] for name in ("m", "h"))
    return {
        "mean": float(near.mean()),
        "largest": float(near.max()),
        "held_out_mean": float(usual.mean()),
        "held_out_largest": float(usual.max()),
    }
