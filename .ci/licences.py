"""Name, version and licence of every package that Ostinato installs, from what is installed: needs no network."""

import re
from importlib.metadata import PackageNotFoundError, distribution


def closure(name: str, found: set[str]) -> set[str]:
    try:
        needs = distribution(name).requires or []
    except PackageNotFoundError:  # for another platform
        return found
    found.add(name)
    for need in needs:
        word = re.match(r"[A-Za-z0-9._-]+", need)
        if word and "extra ==" not in need and word[0].lower() not in found:
            closure(word[0].lower(), found)
    return found


for name in sorted(closure("ostinato", set())):
    about = distribution(name).metadata
    kinds = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    text = about.get("License-Expression") or ", ".join(kinds) or (about.get("License") or "unknown").splitlines()[0]
    print(f"{name} {distribution(name).version}: {text[:100]}")
