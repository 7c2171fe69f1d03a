"""The models that ship with the package: `pocket` in two stages, `pocket-delay` in one. Data, no code.

`pocket/README.md` is their card, `pocket/ATTRIBUTION.csv` names every piece of music they were trained on.
"""

from pathlib import Path

POCKET = Path(__file__).parent / "pocket"
PACKS = {"pocket": POCKET, "pocket-delay": POCKET / "delay"}
