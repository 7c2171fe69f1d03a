"""The docs say what is: the trees are those of the modules, links lead somewhere, configs and commands exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def tree_module():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trees_are_current():
    tree = tree_module()
    for name, make in tree.TREES.items():
        text = (ROOT / name).read_text()
        assert tree.updated(text, make()) == text, f"{name}: run python docs/tree.py"
        assert make() in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page):
    """Configs, scripts and modules that a page names in code."""
    text = page.read_text()
    for name in re.findall(r"\b((?:configs|recipes|benchmarks)/[\w./-]+\.(?:yaml|py|sh))", text):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_the_citation_has_the_version():
    import ostinato

    assert f"version: {ostinato.__version__}\n" in (ROOT / "CITATION.cff").read_text()
