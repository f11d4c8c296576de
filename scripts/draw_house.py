"""Draw docs/house.svg: the packages of audiovq on their floors, and what each imports.

    python scripts/draw_house.py
    python scripts/draw_house.py --check     # fail if the picture is out of date

Floors and imports are those that tests/test_structure.py checks. An arrow that others imply is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_structure import FLOORS, PACKAGE, imports, modules  # noqa: E402

PICTURE = ROOT / "docs" / "house.svg"
BOXES = {
    "errors": (1.2, "AudiovqError"),
    "io": (0.3, "atomic files, code and tensor files"),
    "config": (1.2, "dataclasses and presets"),
    "distributed": (2.1, "several processes, one job"),
    "audio": (0.5, "read, write, resample, loudness"),
    "nn": (1.7, "codebook, WaveNet, spectra"),
    "kernels": (1.15, "compiled loops"),
    "data": (2.05, "corpora, crops, shards"),
    "plots": (2.95, "spectrograms, curves"),
    "speech": (0.2, "encoder, decoder, synthesis"),
    "image": (2.05, "the 2-D backend"),
    "prior": (0.2, "network, sampler, bitstream"),
    "tokenizer": (0.2, "load, encode, decode"),
    "export": (1.9, "ONNX graphs"),
    "batch": (0.2, "folders on all cores"),
    "evaluation": (2.5, "scores, other codecs"),
    "tables": (1.35, "Parquet, WebDataset shards"),
    "ray": (2.3, "a class for Ray Data"),
    "units": (3.05, "labels, counts, inventory"),
    "training": (1.05, "trainer, stages, losses"),
    "recipe": (1.05, "stages of a recipe"),
    "cli": (1.8, "the verbs"),
}
"""Column of each box, and what is in it. Columns keep arrows that pass a floor clear of its boxes."""

WIDTH = 1000
BOX_WIDTH = 216
BOX_HEIGHT = 44
COLUMN = 256
FLOOR = 80
GREY = "#667788"


def floors() -> list[set[str]]:
    """Packages and modules on each floor, the lowest first."""
    found = {module.partition(".")[0] for module in modules(PACKAGE)}
    return [names & found for names in FLOORS if names & found]


def arrows() -> dict[str, list[str]]:
    """What each package imports, without what it also reaches through another."""
    files = modules(PACKAGE)
    direct: dict[str, set[str]] = {name: set() for names in floors() for name in names}
    for module, path in files.items():
        own = module.partition(".")[0]
        direct[own] |= {other.partition(".")[0] for other in imports(path, set(files))} - {own}
    reached: dict[str, set[str]] = {}
    for names in floors():
        for name in names:
            reached[name] = direct[name].union(*(reached[other] for other in direct[name]))
    return {
        name: sorted(other for other in below if not any(other in reached[via] for via in below))
        for name, below in direct.items()
    }


def positions() -> dict[str, tuple[float, float]]:
    """Centre of the upper edge of each box, the highest floor first."""
    return {
        name: (BOX_WIDTH / 2 + 12 + BOXES[name][0] * COLUMN, 12.0 + row * FLOOR)
        for row, names in enumerate(reversed(floors()))
        for name in sorted(names)
    }


def arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A curve from the lower edge of one box to the upper edge of another."""
    top = start[1] + BOX_HEIGHT
    middle = (top + end[1]) / 2
    curve = f"M{start[0]:g} {top:g}C{start[0]:g} {middle:g} {end[0]:g} {middle:g} {end[0]:g} {end[1]:g}"
    return f'<path d="{curve}" fill="none" stroke="{GREY}" stroke-width="1.3" marker-end="url(#head)"/>'


def box(name: str, centre: float, top: float) -> list[str]:
    left = centre - BOX_WIDTH / 2
    middle = f'x="{centre:g}" text-anchor="middle"'
    return [
        f'<rect x="{left:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        'fill="#eef3fa" stroke="#334455"/>',
        f'<text {middle} y="{top + 18:g}" font-size="15" font-weight="bold">{name}</text>',
        f'<text {middle} y="{top + 35:g}" font-size="12">{BOXES[name][1]}</text>',
    ]


def svg() -> str:
    places = positions()
    height = FLOOR * len(floors())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<title>Packages of audiovq: each imports only from those below it</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{GREY}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for name, below in sorted(arrows().items()):
        lines += [arrow(places[name], places[other]) for other in below]
    for name, (centre, top) in places.items():
        lines += box(name, centre, top)
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> int:
    text = svg()
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(text, encoding="utf-8")
    elif not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != text:
        print(
            f"{PICTURE.relative_to(ROOT)} is out of date: run python scripts/draw_house.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
