"""One HTML file to listen to: players, spectrograms and figures, without a network.

Sound is FLAC inside the file: every browser plays it, and it adds no loss of its own to what is compared.
What comes from files (names, speakers) is escaped; besides, the page's policy lets it run and load nothing
but what is written here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from audiovq import __version__
from audiovq.audio.writer import encode_flac
from audiovq.errors import AudiovqError, printable
from audiovq.io.atomic import PartialFile
from audiovq.plots.thumbnail import Thumbnail, draw_thumbnails

LARGE_PAGE_BYTES = 20_000_000
"""Pages above that are slow to open on a phone, and too large for most mail."""

_FOLDER = Path(__file__).with_name("page_template")

_FLAC_BYTES_PER_SECOND = 16_000
_PICTURE_BYTES = 30_000

_KEYS = 9
"""Versions of a recording that have a key."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PagePlayer:
    """A version of a recording."""

    label: str
    samples: NDArray[np.float32]  # `(T,)`, full scale ±1
    sample_rate: int  # Hz
    facts: tuple[tuple[str, str], ...] = ()  # name and value of what is written beside it


@dataclass(frozen=True)
class PageSection:
    """A recording and its versions, or other sounds that belong together."""

    title: str
    players: tuple[PagePlayer, ...]
    about: str = ""  # a line below the title


def write_page(
    out: str | os.PathLike[str],
    title: str,
    sections: Sequence[PageSection],
    *,
    about: str = "",
    force: bool = False,
) -> int:
    """Write a page; warn of one over `LARGE_PAGE_BYTES`.

    Args:
        out: the file, ending in .html.
        title: of the page.
        sections: in order.
        about: a line below the title.
        force: replace `out` if it exists.

    Returns: bytes of the file.
    Raises: AudiovqError if `out` ends otherwise, exists or cannot be written, or a signal is not finite.
    """
    if Path(out).suffix.lower() != ".html":
        raise AudiovqError(f"{out}: a page must end in .html; rename it")
    _check_finite(out, sections)
    with PartialFile(out, force=force) as file:
        parts = [_fill_section(section, number) for number, section in enumerate(sections, 1)]
        content = _fill_page(title, about, "".join(parts)).encode()
        file.write(content)
    if len(content) > LARGE_PAGE_BYTES:
        megabytes = len(content) / 1e6
        _logger.warning("%s: has %.0f MB; take fewer or shorter recordings for a quick page", out, megabytes)
    return len(content)


def _check_finite(out: str | os.PathLike[str], sections: Sequence[PageSection]) -> None:
    for player in (player for section in sections for player in section.players):
        if not np.isfinite(player.samples).all():
            raise AudiovqError(f"{out}: not written, {player.label} is not finite; check the model")


def estimate_player_bytes(seconds: float) -> int:
    """About what a player of 16 kHz speech takes in a page: FLAC at half its bits, a spectrogram, base64."""
    return round(4 / 3 * (_FLAC_BYTES_PER_SECOND * seconds + _PICTURE_BYTES))


def _text(value: str) -> str:
    """Text of any origin as HTML, also inside quotes. Marks that reorder text are made visible."""
    return html.escape(printable(value))


def _template(name: str) -> Template:
    return Template((_FOLDER / name).read_text(encoding="utf-8"))


def _fill_page(title: str, about: str, sections: str) -> str:
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )
    return _template("page.html").substitute(
        policy=policy,
        title=_text(title),
        about=_text(about),
        style=style,
        script=script,
        sections=sections,
        version=__version__,
    )


def _digest(content: str) -> str:
    """What a policy names an inline style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _fill_section(section: PageSection, number: int) -> str:
    pictures = draw_thumbnails([player.samples for player in section.players])
    players = [
        _fill_player(player, picture, number, key)
        for key, (player, picture) in enumerate(zip(section.players, pictures, strict=True), 1)
    ]
    return _template("section.html").substitute(
        number=number, title=_text(section.title), about=_text(section.about), players="".join(players)
    )


def _fill_player(player: PagePlayer, picture: Thumbnail, section: int, key: int) -> str:
    hint = f", key {key}" if key <= _KEYS else ""
    facts = [f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in player.facts]
    return _template("player.html").substitute(
        section=section,
        number=f"{section}-{key}",
        key=key,
        label=_text(player.label),
        switch=_text(f"Play {player.label} from the same moment{hint}"),
        seconds=f"{len(player.samples) / player.sample_rate:.6f}",
        sound=base64.b64encode(encode_flac(player.samples, player.sample_rate)).decode(),
        facts="".join(facts),
        picture=base64.b64encode(picture.png).decode(),
        width=picture.width,
        height=picture.height,
        alt=_text(f"Spectrogram of {player.label}, 0 to 8 kHz"),
    )
