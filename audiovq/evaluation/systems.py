"""The rows of the table: all systems, and the requirements of each."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from audiovq.evaluation.codecs import (
    CODEC2_FRAME_BITS,
    Codec,
    make_codec2,
    make_command_codec,
    make_opus,
    mu_law_codec,
    pcm16_codec,
)
from audiovq.evaluation.tokenizer_codec import (
    DecodeFunction,
    decode_with_griffin_lim,
    decode_with_spectral_head,
    decode_with_wavenet,
    decode_without_correction,
    make_tokenizer_codec,
)

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

WAVENET_LABEL = "audiovq, WaveNet"
FAST_LABEL = "audiovq, `--fast`"


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str  # in the command line
    label: str  # in the table
    make: Callable[[Tokenizer | None], Codec]  # makes the codec, from the tokenizer if the system needs it
    programs: tuple[str, ...] = ()  # that must be on PATH
    package: str = ""  # Debian package that brings them
    line: str = ""  # line of the plot: its systems differ in rate alone; "": the system stands alone
    point: str = ""  # label of the system's point on a line
    default: bool = True  # whether it is measured by default
    needs_tokenizer: bool = False  # whether it is the tokenizer that is measured
    levels: int | None = None  # levels of the codes that are decoded; None: all

    def missing(self, tokenizer: Tokenizer | None) -> str | None:
        """Why the system cannot be measured here; None if it can."""
        absent = [p for p in self.programs if shutil.which(p) is None]
        if absent:
            return f"{' and '.join(absent)} not found; install {self.package}"
        if not self.needs_tokenizer or tokenizer is None:
            return None
        if self.line == FAST_LABEL and tokenizer.model.spectral_head is None:
            return "this model has no spectral head"
        config = tokenizer.header.config
        if self.name == "griffin-lim" and config.conditioner.window % tokenizer.model.frame_hop:
            return "this model's window is not a multiple of its hop"
        if self.levels is not None and self.levels >= config.codebook.levels:
            return f"this model's codes have only {config.codebook.levels} levels"
        return None


def of_tokenizer(decoder: DecodeFunction, levels: int | None = None) -> Callable[[Tokenizer | None], Codec]:
    """The tokenizer as a `System.make`: with a decoder, and the first levels of the codes."""

    def make(tokenizer: Tokenizer | None) -> Codec:
        if tokenizer is None:
            raise ValueError("this system needs a tokenizer")
        return make_tokenizer_codec(tokenizer, decoder, levels)

    return make


def _codec2_system(mode: str) -> System:
    return System(
        f"codec2-{mode}",
        f"Codec2 {mode}",
        lambda _: make_codec2(mode),
        ("c2enc", "c2dec"),
        "codec2",
        line="Codec2",
        point=mode,
        default=mode in ("1200", "2400"),
    )


def _opus_system(kbit: int) -> System:
    return System(
        f"opus-{kbit}",
        f"Opus {kbit} kbit/s",
        lambda _: make_opus(kbit),
        ("opusenc", "opusdec"),
        "opus-tools",
        line="Opus",
        point=f"{kbit}",
        default=kbit in (6, 7),
    )


_DECODERS = {"wavenet": (decode_with_wavenet, WAVENET_LABEL), "fast": (decode_with_spectral_head, FAST_LABEL)}
"""Systems with a row for each number of levels: decoder, and label in the table and the picture."""


def _level_system(name: str, levels: int | None = None) -> System:
    decoder, line = _DECODERS[name]
    suffix = "" if levels is None else f"-{levels}"
    unit = "level" if levels == 1 else "levels"
    return System(
        name + suffix,
        line if levels is None else f"{line}, {levels} {unit}",
        of_tokenizer(decoder, levels),
        line=line,
        point="" if levels is None else f"{levels}",
        needs_tokenizer=True,
        levels=levels,
    )


def _baseline_system(name: str, label: str, decoder: DecodeFunction) -> System:
    return System(name, label, of_tokenizer(decoder), default=False, needs_tokenizer=True)


_SYSTEMS = (
    System("original", "original", lambda _: pcm16_codec),
    System("mu-law", "8-bit mu-law", lambda _: mu_law_codec),
    *(_codec2_system(mode) for mode in CODEC2_FRAME_BITS),
    *(_opus_system(kbit) for kbit in (6, 7, 8, 10)),
    _baseline_system("griffin-lim", "Griffin-Lim", decode_with_griffin_lim),
    _baseline_system("wavenet-plain", "WaveNet, no correction", decode_without_correction),
    _level_system("wavenet"),
    _level_system("fast"),
)
"""In the order of the table; rows of fewer levels come before the row of all."""

_LEVEL_NAME = re.compile(r"(wavenet|fast)-([1-9]\d{0,2})")


def find_systems(
    names: Sequence[str], levels: int = 1, commands: Sequence[tuple[str, str]] = ()
) -> list[System]:
    """Systems of some names, in the order of the table; without names, those measured by default.

    Args:
        names: of `_SYSTEMS`, or `wavenet-N` and `fast-N` for N levels of codes, which a model may lack.
        levels: of the model; by default all smaller numbers are measured too.
        commands: name and command (`make_command_codec`) of codecs to add, in front of the tokenizer's rows.

    Raises: ValueError for an unknown name, or an invalid command.
    """
    plain = {system.name for system in _SYSTEMS}
    unknown = [name for name in names if name not in plain and not _LEVEL_NAME.fullmatch(name)]
    if unknown:
        raise ValueError(f"no system {unknown[0]!r}")
    known: list[System] = []
    for system in _SYSTEMS:
        if system.name in _DECODERS:
            asked = {int(m[2]) for n in names if (m := _LEVEL_NAME.fullmatch(n)) and m[1] == system.name}
            fewer = sorted(asked | set(range(1, levels)))
            known += [_level_system(system.name, n) for n in fewer]
            system = replace(system, point=f"{levels}" if levels > 1 else "")
        known.append(system)
    added = [_command_system(name, command) for name, command in commands]
    chosen = [system for system in known if (system.name in names if names else system.default)]
    at = next((i for i, system in enumerate(chosen) if system.needs_tokenizer), len(chosen))
    return [*chosen[:at], *added, *chosen[at:]]


def _command_system(name: str, command: str) -> System:
    codec = make_command_codec(name, command)
    return System(name, name, lambda _: codec)
