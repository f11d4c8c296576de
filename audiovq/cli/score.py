"""`audiovq score`: how likely recordings are under the prior, and under whose voice."""

from __future__ import annotations

import json
from pathlib import Path

import click

from audiovq.cli.options import model_option, prior_option


@click.command()
@click.argument("sources", metavar="IN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_option
@prior_option
@click.option(
    "--speakers", type=click.IntRange(min=1), metavar="N", help="List the N trained speakers it fits best."
)
@click.option("--bound", is_flag=True, help="Bound on the bits a sample of the whole model, too (slower).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def score(
    sources: tuple[Path, ...],
    model: Path | None,
    prior: Path | None,
    speakers: int | None,
    bound: bool,
    as_json: bool,
) -> None:
    """Measure how likely recordings are.

    IN are recordings or codes. Prints how many bits a code step and a second of sound cost under the prior,
    without a voice and with the recording's own, and how many a code costs at each level, the coarse one
    first; without a prior it would be log2 of the codebook's size. --bound adds what the decoder needs for a
    sample given the codes, and the sum of both: the bound of papers on VQ-VAEs, in bits a sample at 16 kHz. A
    sample is one of 256 mu-law levels of what the WaveNet draws; where linear prediction
    leaves it an excitation (the default model), its levels are not those of the sound, and only figures of
    such models compare.
    """
    from audiovq.evaluation.likelihood import score_file
    from audiovq.tokenizer import load

    tokenizer = load(model, prior=prior)
    for source in sources:
        facts = score_file(tokenizer, source, speakers or 0, bound)
        if as_json:
            click.echo(json.dumps({"file": str(source), **facts}, ensure_ascii=False))
            continue
        values = "  ".join(f"{k.replace('_', ' ')} {_text(v)}" for k, v in facts.items() if k != "speakers")
        click.echo(f"{source}: {values}")
        for name, bits in facts.get("speakers", {}).items():
            click.echo(f"    {name:<12} {bits:.3f} bits a step")


def _text(value: float | list[float]) -> str:
    """A number, or several joined by plus signs."""
    if isinstance(value, list):
        return " + ".join(map(_text, value))
    return str(value) if isinstance(value, int) else f"{value:.3f}"
