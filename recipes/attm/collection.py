"""For run.sh --tiny: music made here in the form of MTG-Jamendo, as the challenge's preprocessing leaves it, captions
in the form of the challenge's, two prompts, and the challenge's recipe without the separation that was done."""

import csv
import json
import sys
from pathlib import Path

import soundfile as sf

sys.path.insert(0, str(Path(__file__).parents[1] / "paper"))
from tiny import RATE, SOUNDS, SPEEDS, TRACKS, tune


def main(out: Path, recipe: Path) -> None:
    kinds = [(speed, sound) for speed in SPEEDS for sound in SOUNDS]
    captions = []
    for seed in range(TRACKS):
        speed, sound = kinds[seed % len(kinds)]
        number = 1000 + seed
        path = out / f"jamendo/{number % 100:02d}/{number}_instrumental.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            sf.write(path, tune(seed, SPEEDS[speed], SOUNDS[sound]), RATE, format="MP3")
        captions.append({"path": f"{number % 100:02d}/{number}.mp3", "caption": f"{speed} {sound} music"})
    (out / "jamendo_qwen.json").write_text(json.dumps(captions))
    with (out / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("name", "caption"), *((f"p{n:03d}", f"{' '.join(kinds[n])} music") for n in range(2))]
        )
    lines = recipe.read_text().splitlines(keepends=True)
    (out / "data-attm.yaml").write_text("".join(line for line in lines if not line.startswith("  - separate")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
