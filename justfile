# The verbs of this repository: https://just.systems. Without just, copy the lines.

default:
    @just --list

# the tests that start no training, process or browser
quick:
    ruff check . && pytest -m "not slow"

# the README's test command
test:
    ruff check . && mypy && pytest -n 2 --dist loadfile

# style, types and the tree in the docs
lint:
    ruff check --fix . && ruff format . && mypy && python docs/tree.py

# the site, in site/
docs:
    mkdocs build --strict

# everything that CI runs
ci:
    bash .ci/run

# all benchmarks at a small size, beside the committed table
bench:
    python -m benchmarks
