"""The model that ships with the package, `pocket`. Data, no code.

`pocket/README.md` is its card, `pocket/ATTRIBUTION.csv` names every piece of music it was trained on.
"""

from pathlib import Path

POCKET = Path(__file__).parent / "pocket"
