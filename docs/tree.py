"""The repository's tree, from the first sentence of each module's docstring.

`python docs/tree.py` writes it into README.md and docs/architecture.md.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "ostinato"
# From a sentence to a waveform, then from music to a checkpoint, then what looks at both.
ROOMS = ["models", "codecs", "generation", "packs", "export", "curate", "data", "training", "convert", "evaluation"]
ROOMS += ["studio", "cli", "utils"]


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?= |$)", text)[0]


def rooms() -> list[Path]:
    return [PACKAGE / room for room in ROOMS if (PACKAGE / room / "__init__.py").is_file()]


def short_tree() -> str:
    width = max(len(room.name) for room in rooms()) + 1
    return "\n".join(f"{room.name + '/':{width}}  {sentence(room / '__init__.py')}" for room in rooms())


def long_tree() -> str:
    lines = []
    for room in rooms():
        lines.append(f"{room.name}/")
        for path in sorted(room.rglob("*.py")):
            if path.stem not in ("__init__", "__main__"):
                name = path.relative_to(room).with_suffix("").as_posix()
                lines.append(f"    {name:26}  {sentence(path)}")
    return "\n".join(lines)


def updated(text: str, tree: str) -> str:
    """`text` with what stands between the markers replaced by the tree."""
    pattern = r"(<!-- tree: python docs/tree.py -->\n```\n).*?(```\n<!-- end -->)"
    return re.sub(pattern, lambda m: m[1] + tree + "\n" + m[2], text, flags=re.DOTALL)


TREES = {"README.md": short_tree, "docs/architecture.md": long_tree}

if __name__ == "__main__":
    for name, tree in TREES.items():
        path = ROOT / name
        path.write_text(updated(path.read_text(), tree()))
