"""The options of `make_listening_page`. Imports no torch, so that the command line can build them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PageOptions:
    """What a page holds."""

    out: Path  # the page to write
    model: Path | None = None  # model file; None: the one that ships
    prior: Path | None = None  # of the model; None: the one beside it, if there is one
    title: str = "audiovq"  # of the page
    systems: tuple[str, ...] = ()  # names of further systems, as for evaluation
    commands: tuple[tuple[str, str], ...] = ()  # name and command of further codecs
    speakers: tuple[str | int, ...] = ()  # trained speakers to convert each recording to
    voices: tuple[Path, ...] = ()  # recordings of voices to convert each recording to
    generate: int = 0  # recordings to generate
    seconds: float = 4.0  # length of each of them
    limit: int = 8  # recordings of a folder
    scores: bool | None = False  # objective scores; None: if the packages are installed
    force: bool = False  # overwrite an existing file
