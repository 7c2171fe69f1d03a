"""The house: arrows between rooms go one way, no module waits for itself, and each room says its plan."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ostinato

ROOT = Path(ostinato.__file__).parent
# From the ground up: a room may import those before it, and itself.
ORDER = ["packs", "utils", "models", "codecs", "generation", "export", "data", "training", "convert", "evaluation"]
ORDER += ["curate", "studio", "cli"]
ROOMS = [room for room in ORDER if (ROOT / room).is_dir()]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in ROOT.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it but for the type checker."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # what only the type checker sees is no import
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & FILES.keys()) | ({node.module} if not inner <= FILES.keys() else set())
    return {name for name in found if name in FILES}


def test_every_room_is_in_the_order_and_says_its_plan():
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ROOMS)
    for room in ROOMS:
        plan = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())) or ""
        modules = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__", "__main__"}
        if room != "cli":  # its files are named after the commands
            assert not [name for name in modules if name not in plan], room


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_one_above_it(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for path in (ROOT / room).rglob("*.py"):
        for name in imports_of(path):
            if name != "ostinato":
                assert name.split(".")[1] in allowed, f"{path} imports {name}"


def test_no_circles():
    arrows = {name: imports_of(path) - {name} for name, path in FILES.items()}
    while leaves := [name for name, to in arrows.items() if not to & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert not arrows, f"a circle among {sorted(arrows)}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_export_hides_a_module(room):
    """`import ostinato.data.prepare` must be the module, whatever the room exports."""
    names = getattr(importlib.import_module(f"ostinato.{room}"), "__all__", [])
    modules = {path.stem for path in (ROOT / room).glob("*.py")}
    assert room == "cli" or not modules & set(names)


def test_the_language_model_needs_no_other_room():
    code = "import ostinato.models.lm, sys; print(*[m for m in sys.modules if m.startswith('ostinato.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split()}
    assert rooms == {"models", "utils"}


def test_files_are_short():
    """A file is a noun and can be read at one sitting."""
    for path in FILES.values():
        assert len(path.read_text().splitlines()) < 400, path
