"""Opens the codes that verbs on many recordings take."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.speech.modelfile import ModelHeader
    from audiovq.tokenizer import Tokenizer
    from audiovq.units.corpus import UnitCorpus


def open_unit_corpus(
    path: Path, header: ModelHeader, model: Path | None, prior: Path | None, level: int
) -> UnitCorpus:
    """A corpus that prints the error of a recording that cannot be used, and goes on with the others.

    The model itself is loaded for the first `.avq` file alone.

    Raises: AudiovqError as `UnitCorpus`; for the only recording of a corpus its own.
    """
    from audiovq.speech.codes import CodeSequence
    from audiovq.units.corpus import UnitCorpus

    @cache
    def tokenizer() -> Tokenizer:
        from audiovq.tokenizer import load

        return load(model, prior=prior)

    def load_file(file: Path) -> CodeSequence:
        if file.suffix == ".avq":
            return tokenizer().load_codes(file)
        return CodeSequence.load(file, hop=header.code_format.hop)

    def report(error: AudiovqError) -> None:
        if len(corpus) == 1:
            raise error
        click.echo(f"audiovq: error: {error}", err=True)

    corpus = UnitCorpus(path, header.code_format, load_file, level=level, on_error=report)
    return corpus


def fail_if_left_out(corpus: UnitCorpus) -> None:
    """Raise AudiovqError if recordings could not be used, once the work on the others is done."""
    if corpus.failed:
        raise AudiovqError(
            f"{len(corpus.failed)} of {len(corpus)} recordings failed and were left out; "
            "fix them and run the command again"
        )
