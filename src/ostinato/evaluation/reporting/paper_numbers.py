"""The numbers the two papers print, to stand beside those measured here. Their plots have none to copy."""

import re
from dataclasses import dataclass

SYSTEM = "Lee et al., Training-Efficient Text-to-Music Generation with State-Space Modeling, arXiv 2601.14786"
STUDY = "Lee et al., Exploring State-Space-Model based Language Model in Music Generation, arXiv 2507.06674"


@dataclass(frozen=True)
class Printed:
    """A row of a paper's table. key: what our rows are matched by (`results.key_of`); values: by metric and length of
    the clips in s, as printed; opinions: mean and standard deviation of listeners, 1 to 5; step: where a table has
    several of one model."""

    key: str
    label: str
    size: str
    values: dict[tuple[str, int], float]
    opinions: dict[str, tuple[float, float]] | None = None
    step: int | None = None


def label_of(key: str) -> str:
    """What a row of this key is called beside the paper's; "" for nothing."""
    if layers := re.fullmatch(r"real-(\d+)", key):
        return f"GT ({layers[1]} layer{'' if layers[1] == '1' else 's'})"
    return LABELS.get(key, "")


def ten(fd: float, kl: float, clap: float) -> dict[tuple[str, int], float]:
    return {("fd", 10): fd, ("kl", 10): kl, ("clap", 10): clap}


def twenty_five(fd: float, kl: float, clap: float) -> dict[tuple[str, int], float]:
    return {("fd", 25): fd, ("kl", 25): kl, ("clap", 25): clap}


def opinions(
    consistency: tuple[float, float], alignment: tuple[float, float], overall: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    return {"consistency": consistency, "alignment": alignment, "overall": overall}


# FD on OpenL3, KL on PaSST, CLAP; 200 MusicCaps prompts for 10 s clips, 50 for 25 s.
TABLE_1 = (  # 20,000 steps, one codebook of DAC
    Printed("real-1", "GT (1 layer)", "", ten(59.3433, 1.4950, 0.1950)),
    Printed("prefix-mamba", "Prefix Mamba", "357 M", ten(107.0340, 1.8837, 0.1450)),
    Printed("prefix-simba", "Prefix SiMBA", "281 M", ten(102.7248, 1.5106, 0.1776)),
    Printed("cross-simba", "Cross SiMBA", "381 M", ten(118.4306, 1.3012, 0.1240)),
    Printed("cross-transformer", "Cross Transformer", "306 M", ten(99.2973, 3.1077, 0.1150)),
)
TABLE_2 = (  # 100,000 steps, but MusicGen-small, whose authors trained it on 20,000 hours of their own
    Printed(
        "musicgen-small",
        "Official MusicGen-small",
        "300 M",
        ten(109.1424, 1.8371, 0.2422) | twenty_five(125.8558, 1.3879, 0.2234),
    ),
    Printed(
        "prefix-simba-9",
        "Prefix SiMBA, all codebooks",
        "300 M",
        ten(98.6492, 1.1952, 0.2360) | twenty_five(107.2963, 0.6902, 0.2280),
    ),
    Printed(
        "transformer-diffusion",
        "Transformer/Diffusion",
        "306 M + 1.2 B",
        ten(83.1081, 1.4994, 0.1852) | twenty_five(97.3981, 1.2494, 0.1630),
    ),
    Printed(
        "simba-diffusion",
        "Prefix SiMBA/Diffusion",
        "281 M + 1.2 B",
        ten(74.4559, 1.2948, 0.2370) | twenty_five(85.2023, 0.9408, 0.2495),
    ),
)
# Rows of ours that Table II has none of, in its words; real music through the first n codebooks is `real-n`.
LABELS = {
    "real-diffusion": "GT (1 layer)/Diffusion",
    "prefix-mamba-diffusion": "Prefix Mamba/Diffusion",
    "cross-simba-diffusion": "Cross SiMBA/Diffusion",
}
TABLE_3 = (  # 25 s clips, 20 listeners; the paper calls Prefix SiMBA/Diffusion SSM here
    Printed("musicgen-small", "MusicGen-small", "", {}, opinions((3.73, 1.06), (3.65, 1.05), (3.60, 1.04))),
    Printed("simba-diffusion", "SSM (100k)", "", {}, opinions((3.37, 1.05), (3.65, 0.89), (3.42, 1.00)), 100_000),
    Printed("simba-diffusion", "SSM (50k)", "", {}, opinions((2.98, 0.99), (2.85, 1.06), (2.77, 1.01)), 50_000),
    Printed(
        "transformer-diffusion",
        "Transformer (400k)",
        "",
        {},
        opinions((2.92, 0.92), (3.03, 1.08), (2.88, 1.10)),
        400_000,
    ),
    Printed(
        "transformer-diffusion",
        "Transformer (100k)",
        "",
        {},
        opinions((2.40, 1.10), (2.38, 1.08), (2.27, 1.17)),
        100_000,
    ),
)
TABLE_4 = (  # 100,000 steps, 19 listeners; the paper gives the blocks as 281 M, 141 M and 94.4 M
    Printed(
        "blocks-24",
        "Prefix SiMBA/Diffusion, 24 blocks",
        "281 M",
        twenty_five(85.2023, 0.9408, 0.2495),
        opinions((3.67, 1.01), (3.64, 1.08), (3.61, 0.99)),
    ),
    Printed(
        "blocks-12",
        "Prefix SiMBA/Diffusion, 12 blocks",
        "141 M",
        twenty_five(88.1027, 1.1073, 0.2547),
        opinions((3.24, 1.01), (3.25, 1.04), (3.18, 1.02)),
    ),
    Printed(
        "blocks-6",
        "Prefix SiMBA/Diffusion, 6 blocks",
        "94.4 M",
        twenty_five(82.0459, 0.9284, 0.2442),
        opinions((2.54, 1.11), (2.67, 1.10), (2.37, 1.09)),
    ),
)
