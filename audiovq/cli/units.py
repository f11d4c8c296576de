"""`audiovq units`: what the codes of a corpus are like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import say, stage_bars
from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from audiovq.units.corpus import UnitCorpus
    from audiovq.units.search import Occurrence


@dataclass(frozen=True)
class _Wanted:
    """What to write."""

    out: Path
    """Folder."""
    ngrams: int | None
    """Length of the n-grams."""
    top: int
    """N-grams to write."""
    every_step: bool
    """Whether n-grams and transitions are of steps, not of runs."""
    distances: Literal["csv", "npy"] | None
    """Form of the matrix."""
    examples: int
    """Random occurrences of each code."""
    seed: int
    """Of the random occurrences."""
    force: bool
    """Overwrite existing files."""

    def files(self) -> list[Path]:
        """All that will be written."""
        names = ["codes.csv", "occurrences.csv", "levels.csv", "transitions.csv"]
        names += ["ngrams.csv"] if self.ngrams else []
        names += [f"distances.{self.distances}"] if self.distances else []
        names += ["distances.names.csv"] if self.distances == "npy" else []
        return [self.out / name for name in names]


def _parse_codes(ctx: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    words = value.replace(",", " ").split()
    if not words or not all(word.isascii() and word.isdecimal() for word in words):
        raise click.UsageError(f"--find takes codes, such as '147 23', not {value!r}.")
    return [int(word) for word in words]


@click.command()
@click.argument("corpus", metavar="CORPUS", type=options.PATH)
@options.path_option("-o", "--out", metavar="FOLDER", text="Folder for the CSV files; it is created.")
@click.option(
    "--find",
    "wanted",
    metavar="CODES",
    callback=_parse_codes,
    help="Print where these codes follow each other, such as --find '147 23', as CSV: recording, onset and "
    "offset in seconds.",
)
@options.number_option("--level", "Level of the codes; 1 is the coarsest.", default=1)
@options.number_option("--ngrams", "Also write the counts of n-grams of N codes (ngrams.csv).")
@options.number_option("--top", "Number of n-grams to write, the most frequent ones.", default=10_000)
@click.option(
    "--every-step",
    is_flag=True,
    help="For n-grams, transitions and --find, take the code of every step. Without it, a run of equal codes "
    "counts once.",
)
@click.option(
    "--distances",
    type=click.Choice(["csv", "npy"]),
    help="Also write the edit distance between the runs of each two recordings, from 0 to 1, as a square "
    "matrix (distances.csv, or distances.npy and distances.names.csv). At most 10,000 recordings.",
)
@options.number_option("--examples", "Number of random occurrences of each code.", default=5, least=0)
@options.seed_option("Random seed of the occurrences.")
@options.model_option
@options.prior_option("It must be the one that compressed the .avq files; .npy files do not use it.")
@options.force_option
def units(
    corpus: Path,
    out: Path | None,
    wanted: list[int] | None,
    level: int,
    ngrams: int | None,
    top: int,
    every_step: bool,
    distances: Literal["csv", "npy"] | None,
    examples: int,
    seed: int,
    model: Path | None,
    prior: Path | None,
    force: bool,
) -> None:
    """Count the codes of a corpus, and find codes in it.

    CORPUS is a folder of code files (.npy, .avq), a table (.parquet or .tar), or a code file. It is read
    recording by recording, so it can be larger than memory. A recording that cannot be read is reported and
    left out.

    Writes to FOLDER: codes.csv (how often each code occurs, how long its runs are, what comes before and
    after), occurrences.csv (the most typical run of each code and some random ones), levels.csv (usage and
    perplexity of each level) and transitions.csv.

    \b
    Examples:
      audiovq units codes/ --out units
      audiovq units codes.parquet --out units --ngrams 3 --distances npy
      audiovq units codes/ --find "147 23"
    """
    if out is None and wanted is None:
        raise click.UsageError("Give --out, --find or both.")
    checks.check_exists(corpus)
    checks.check_files(prior)
    header = checks.read_model_header(model)
    from audiovq.cli.corpora import fail_if_left_out, open_unit_corpus
    from audiovq.units.search import search_codes

    opened = open_unit_corpus(corpus, header, model, prior, level)
    found = None if wanted is None else search_codes(opened, wanted, every_step=every_step)
    with stage_bars():
        if out is not None:
            chosen = _Wanted(out, ngrams, top, every_step, distances, examples, seed, force)
            _check_out(chosen)
            _write(opened, chosen, model)
        if found is not None:
            _print_occurrences(found)
    fail_if_left_out(opened)


def _check_out(wanted: _Wanted) -> None:
    """Raise AudiovqError if the files cannot be written."""
    if wanted.out.exists() and not wanted.out.is_dir():
        raise AudiovqError(f"{wanted.out}: is a file; name a folder")
    if wanted.out.is_dir():
        for path in wanted.files():
            checks.check_writable(path, wanted.force)


def _write(corpus: UnitCorpus, wanted: _Wanted, model: Path | None) -> None:
    from audiovq.tokenizer import load
    from audiovq.units import csvfiles
    from audiovq.units.distances import edit_distances
    from audiovq.units.inventory import InventoryOptions, build_inventory, codebook_vectors
    from audiovq.units.ngrams import count_ngrams

    # Before the long passes, as it may refuse the corpus.
    matrix = edit_distances(corpus) if wanted.distances else None
    table = load(model).codebook.detach().cpu().numpy()
    how = InventoryOptions(examples=wanted.examples, seed=wanted.seed)
    inventory = build_inventory(corpus, codebook_vectors(table), how)
    with count_ngrams(corpus, 2, every_step=wanted.every_step) as transitions:
        try:
            wanted.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AudiovqError(
                f"{wanted.out}: cannot be made ({error.strerror}); name another folder"
            ) from None
        csvfiles.write_inventory(inventory, wanted.out, force=wanted.force)
        csvfiles.write_transitions(transitions, wanted.out / "transitions.csv", force=wanted.force)
    if wanted.ngrams is not None:
        with count_ngrams(corpus, wanted.ngrams, every_step=wanted.every_step) as counter:
            frequent = counter.most_frequent(wanted.top)
        csvfiles.write_ngrams(frequent, wanted.out / "ngrams.csv", force=wanted.force)
        say(f"{frequent.total} n-grams, {frequent.distinct} of them different")
    if matrix is not None:
        csvfiles.write_distances(matrix, wanted.out / f"distances.{wanted.distances}", force=wanted.force)
    usage = inventory.levels[inventory.level - 1]
    say(
        f"{wanted.out}: {inventory.recordings} recordings, {inventory.seconds:.1f} s; level {usage.level}: "
        f"{usage.used} of {usage.codebook_size} codes used, perplexity {usage.perplexity:.1f}"
    )


def _print_occurrences(found: Iterator[Occurrence]) -> None:
    from audiovq.units.csvfiles import csv_text, occurrence_row

    click.echo("recording,onset_s,offset_s")
    for occurrence in found:
        click.echo(csv_text([occurrence_row(occurrence)]), nl=False)
