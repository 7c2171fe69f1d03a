"""Rates of the stages of `ostinato curate`, and what MTG-Jamendo would take by them.

    python benchmarks/curate.py MUSIC [--tagger efficientat:FILE]

MUSIC: a folder of songs, the first 16 of which are taken: MP3, as MTG-Jamendo's are, for decoders differ. Rates are of
one process with one thread, in times real time by its processor time, so that other work beside it does not count.
HTDemucs and LP-MusicCaps are the packages' own networks at their published sizes with random weights: these decide what
comes out, not how long it takes; LP-MusicCaps then writes as many tokens as it may. FLOPs are counted by PyTorch,
products of matrices and convolutions alone.
"""

import argparse
import io
import os
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import soundfile as sf
import torch
from torch.utils.flop_counter import FlopCounterMode

from ostinato.curate.clip import Clip, Track
from ostinato.curate.duplicates import fingerprint
from ostinato.curate.stages import STAGES, Context, Silence, Voices
from ostinato.training.plan import GPUS
from ostinato.utils.audio import AUDIO_SUFFIXES, read_audio, stream_audio

RATE, SECONDS, FILES = 44100, 30.0, 16
TRACKS, CLIPS, MINUTES = 55_701, 54_894, 4.0  # of MTG-Jamendo: files, those of the paper, and about how long one is
WHOLE = ("fingerprint", "read, cut")  # of all of a track
INSTEAD = ("read, cut", "separate: Spleeter")  # what the paper's recipe does not do: it reads one clip, by HTDemucs
WORDS = 30  # tokens of a caption of LP-MusicCaps
LLM = 2 * 8.03e9 * (450 + 80)  # FLOPs of Llama 3 8B: 2 N a token, of a prompt with three captions and of an answer
CARD, USED, MACHINES = "RTX 4090", 0.1, 10  # share of its bfloat16 products that such networks are taken to reach


def busy() -> float:
    """Seconds of a processor that this process and those it has waited for took."""
    return sum(os.times()[:4])


def rate(work: Callable[[], Any], seconds: float) -> float:
    """How many times faster than it plays `seconds` of music is worked on."""
    began = busy()
    work()
    return seconds / (busy() - began)


def counted(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def htdemucs() -> Any:
    from demucs.apply import BagOfModels
    from demucs.htdemucs import HTDemucs

    return BagOfModels([HTDemucs(["drums", "bass", "other", "vocals"], bottom_channels=512, segment=7.8)]).eval()


def lp_musiccaps(folder: Path) -> Any:
    """At the size of BART base, its tokenizer a small one made here."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import BartConfig, PreTrainedTokenizerFast

    from ostinato.curate.lp_musiccaps import LPMusicCaps

    words = ByteLevelBPETokenizer()
    words.train_from_iterator(["calm piano music"] * 3, 300, special_tokens=["<s>", "<pad>", "</s>"])
    PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<pad>").save_pretrained(folder)
    sizes = {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "vocab_size": 50265}
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    BartConfig(**sizes, **heads, encoder_ffn_dim=3072, decoder_ffn_dim=3072).save_pretrained(folder)
    return LPMusicCaps(str(folder)).eval()


def measured(music: Path, tagger: str) -> dict[str, tuple[float, float]]:
    """Stage -> times real time, FLOPs a second of music (0: of no network)."""
    from ostinato.curate.separate import split

    files = [path for path in sorted(music.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES]
    files = [path for path in files if sf.info(path).duration > SECONDS][:FILES]
    lengths = {path: sf.info(path).duration for path in files}
    rng, whole = random.Random(0), sum(lengths.values())
    starts = {path: rng.uniform(0, length - SECONDS) for path, length in lengths.items()}
    print(f"{len(files)} songs, {whole / 3600:.2f} h")
    clips = [
        Clip(Track(str(path), "", ""), start, RATE, read_audio(path, RATE, start, SECONDS)[0].numpy())
        for path, start in starts.items()
    ]
    found: dict[str, tuple[float, float]] = {}

    def over_clips(name: str, work: Callable[[Clip], Any], flops: float = 0.0, count: int = len(files)) -> None:
        work(clips[0])
        found[name] = (rate(lambda: [work(clip) for clip in clips[:count]], SECONDS * count), flops)

    found["fingerprint"] = (rate(lambda: [fingerprint(path, 120.0) for path in files], whole), 0.0)
    found["read, cut"] = (rate(lambda: [list(stream_audio(path, RATE, SECONDS)) for path in files], whole), 0.0)
    over_clips("read one clip", lambda clip: read_audio(clip.track.id, RATE, clip.start, SECONDS))
    over_clips("silence", STAGES["silence"].make(Silence(), Context()))
    over_clips("write FLAC", lambda clip: sf.write(io.BytesIO(), clip.audio, RATE, format="FLAC"))
    if tagger:
        listen = STAGES["voices"].make(Voices(tagger, 1.0), Context())
        over_clips("voices", listen, counted(lambda: listen(clips[0])) / SECONDS)
    for name, model in separators().items():
        remove = partial(split, model, clips[0].audio, RATE, 0.25, "cpu")
        found[name] = (rate(remove, SECONDS), counted(remove) / SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        model, heard = lp_musiccaps(Path(folder)), torch.zeros(3, 160_000)
        flops = counted(lambda: model.captions(heard, 5, WORDS)) / SECONDS
        found["caption: LP-MusicCaps"] = (rate(lambda: model.captions(heard, 5, WORDS), SECONDS), flops)
    return found


def separators() -> dict[str, Any]:
    from ostinato.curate.separate import load_separator
    from ostinato.utils.errors import UserError

    made = {"separate: HTDemucs": htdemucs()}
    try:
        return made | {"separate: Spleeter": load_separator("spleeter", "cpu")}
    except UserError as error:
        print(error)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("music", type=Path)
    parser.add_argument("--tagger", default="")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        found = measured(asked.music, asked.tagger)
    card = GPUS[CARD].tflops * 1e12 * USED
    print(
        f"| stage | x real time, one core | GFLOP/s of music | {TRACKS:,} tracks: h of a core | of a {CARD}, on paper |"
    )
    print("| --- | --- | --- | --- | --- |")
    cores = cards = 0.0
    for name, (times, flops) in found.items():
        # A fingerprint is of a whole track (its first 120 s); the rest is its one clip (one_clip: {stop_early: true}).
        heard = TRACKS * MINUTES * 60 if name in WHOLE else CLIPS * SECONDS
        core, gpu = heard / times / 3600, heard * flops / card / 3600
        counts = (f"{flops / 1e9:.3g}", f"{gpu:.2g}") if flops else ("-", "-")
        print(f"| {name} | {times:,.3g} | {counts[0]} | {core:,.3g} | {counts[1]} |")
        if name not in INSTEAD:
            cards, cores = cards + gpu, cores + (0.0 if flops else core)
    llm = CLIPS * LLM / card / 3600
    print(f"| merge: an LLM of 8 B | - | {LLM / SECONDS / 1e9:.3g} | - | {llm:.2g} |")
    print(
        f"\nOn paper, a {CARD} at {USED:.0%} of its products, no clip tried twice: {cards + llm:.1f} h of the card and "
        f"{cores:.1f} h of one core beside it, {60 * cores / 16:.0f} min of 16; {MACHINES} such machines, "
        f"{60 * (cards + llm) / MACHINES:.0f} min and {60 * cores / 16 / MACHINES:.0f} min."
    )


if __name__ == "__main__":
    main()
