"""The data card: README.md of the result, with the metadata block that the Hugging Face hub reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ostinato.curate.recipe import Recipe

if TYPE_CHECKING:
    from ostinato.curate.dataset import Summary

HUB_LICENCES = {
    "CC-BY": "cc-by-4.0",
    "CC-BY-SA": "cc-by-sa-4.0",
    "CC-BY-NC": "cc-by-nc-4.0",
    "CC-BY-NC-SA": "cc-by-nc-sa-4.0",
    "CC-BY-ND": "cc-by-nd-4.0",
    "CC-BY-NC-ND": "cc-by-nc-nd-4.0",
    "CC0": "cc0-1.0",
}


def card(out: Path, recipe: Recipe, summary: Summary, clips: list[dict]) -> str:
    """The card as Markdown. Licences of the clips are counted; where there are several, the hub is told `other`."""
    licences = Counter(row["licence"] or "not named" for row in clips)
    only = HUB_LICENCES.get(next(iter(licences)), "other") if len(licences) == 1 else "other"
    writers = Counter(row["caption_by"] or "nobody" for row in clips)
    heard = Counter(said["by"] for row in clips for said in row["captions"])
    front = {
        "license": only,
        "task_categories": ["text-to-audio"],
        "tags": ["music", "text-to-music"],
        "pretty_name": out.name,
        "configs": [{"config_name": "default", "data_files": "metadata.parquet"}],
    }
    rows = "\n".join(f"| {stage} | {reason} | {count} | {seconds / 3600:.3f} |" for (stage, reason), (seconds, count)
                     in summary.reasons.items())  # fmt: skip
    stages = yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True).strip()
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
# {out.name}

{summary.clips} clips, {summary.hours:.2f} h, of {summary.tracks} files with {summary.hours_in:.2f} h.
Made by `ostinato curate`.

- `metadata.parquet`: a row a clip: its file, track, offset, licence, author, every caption with who wrote it, what was
  measured, and the sha256 of its 16-bit samples.
- `drops.parquet`: every clip that is out, with the stage and the reason. `tracks.parquet`: what became of every file.
- `captions.jsonl`: for `ostinato prepare`.

## Licences

Each clip has the licence of its track (column `licence`; `licence_text` as it was given): keep to it, and name its
author.

{_counted("licence", licences)}

## Captions

{_counted("the description was written by", writers)}

{_counted("what it was made of was written by", heard)}

Captions written by models may be wrong; they were not checked by people.

## What is out, and why

| stage | reason | clips or files | hours |
| --- | --- | --- | --- |
{rows}

## The recipe

```yaml
{stages}
```
"""


def _counted(title: str, counts: Counter) -> str:
    lines = "\n".join(f"| {name} | {count} |" for name, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    return f"| {title} | clips |\n| --- | --- |\n{lines or '| - | 0 |'}"
