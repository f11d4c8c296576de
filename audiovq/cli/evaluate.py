"""`audiovq evaluate`: a table of scores, the tokenizer among codecs."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli.options import check_writable, force_option, model_option

# Named here again, as the help lists them without importing what measures them; a test compares.
SYSTEM_NAMES = ("original", "mu-law", "codec2-1200", "codec2-2400", "opus-6", "wavenet", "fast")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@model_option
@click.option("--split", metavar="NAME", help="Only this split of FOLDER, as its manifest.tsv names it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="N recordings; speakers take turns.")
@click.option(
    "--system",
    "names",
    multiple=True,
    type=click.Choice(SYSTEM_NAMES),
    help="Measure this one; repeatable. Without it, all.",
)
@click.option(
    "--json",
    "json_out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Also write the scores of every recording.",
)
@force_option
def evaluate(
    folder: Path,
    model: Path | None,
    split: str | None,
    limit: int | None,
    names: tuple[str, ...],
    json_out: Path | None,
    force: bool,
) -> None:
    """Score speech that went through the model, and through other codecs.

    Prints a table in Markdown, over FOLDER's recordings under 12 s, at most 10 a speaker. FOLDER is laid out
    as for training. Needs pip install 'audiovq[eval]'; Codec2 and Opus are measured where c2enc, c2dec,
    opusenc and opusdec are on PATH.
    """
    if json_out == Path("-"):
        raise click.UsageError("--json takes a file: the table goes to standard output.")
    from audiovq.cli.batch import progress_bar
    from audiovq.data.corpus import open_corpus
    from audiovq.errors import AudiovqError
    from audiovq.evaluation.codecs import find_systems
    from audiovq.evaluation.compare import choose_utterances, compare, table_head, table_row, write_json
    from audiovq.evaluation.metrics import Scorer

    if json_out is not None:
        check_writable(json_out, force)
    systems = find_systems(names)
    tokenizer = None
    if any(system.needs_tokenizer for system in systems):
        from audiovq.tokenizer import load

        tokenizer = load(model)
    absent = {system.name: system.missing(tokenizer) for system in systems}
    for system in systems:
        if absent[system.name]:
            click.echo(f"{system.label}: left out: {absent[system.name]}", err=True)
    systems = [system for system in systems if not absent[system.name]]
    if not systems:
        raise AudiovqError(f"{folder}: nothing left to measure; name another --system")
    scorer = Scorer()
    corpus = open_corpus(
        folder, report=lambda line: click.echo(line, err=True), splits=[split] if split else []
    )
    utterances = choose_utterances(corpus, limit)
    seconds = sum(u.seconds for u in utterances)
    readers = len({u.speaker for u in utterances if u.speaker})
    click.echo(f"{folder}: {len(utterances)} recordings, {readers} speakers, {seconds:.0f} s", err=True)
    click.echo(table_head())
    rows = []
    with progress_bar(2 * len(systems) * len(utterances), "step") as bar:

        def progress(label: str, done: int, total: int) -> None:
            bar.set_description(label, refresh=False)
            bar.update()

        for row in compare(systems, corpus, utterances, scorer, tokenizer, progress):
            bar.clear()
            click.echo(table_row(row))
            unscored = sum(s.pesq_wb != s.pesq_wb for s in row.scores)
            if unscored:
                click.echo(f"{row.label}: PESQ hears no speech in {unscored} of {len(row.scores)}", err=True)
            rows.append(row)
    if json_out is not None:
        fingerprint = None if tokenizer is None else tokenizer.fingerprint
        write_json(json_out, rows, corpus, utterances, fingerprint=fingerprint, force=force)
