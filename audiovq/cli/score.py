"""`audiovq score`: how likely recordings are under the prior, and under each speaker's voice."""

from __future__ import annotations

import json
from pathlib import Path

import click

from audiovq.cli import options


@click.command()
@click.argument("sources", metavar="IN...", nargs=-1, required=True, type=options.PATH)
@options.model_option
@options.prior_option
@options.number_option(
    "--speakers", text="Also list the N trained speakers whose voices fit the recording best."
)
@click.option(
    "--bound",
    is_flag=True,
    help="Also compute the likelihood bound of the whole model, in bits per sample at 16 kHz (slower; takes "
    "recordings only).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def score(
    sources: tuple[Path, ...],
    model: Path | None,
    prior: Path | None,
    speakers: int | None,
    bound: bool,
    as_json: bool,
) -> None:
    """Measure how likely recordings are under the model's prior.

    IN are recordings or code files (.npy, .avq). For each one line is printed: the bits that a code step, a
    second of sound, and a code at each level (the coarse one first) take under the prior; once without a
    voice, and once with the recording's own voice. Without a prior a code takes log2 of the codebook size.

    --bound adds the bits that the decoder needs per sample given the codes, and the sum of both: the bound
    that papers on VQ-VAEs report. A sample is one of 256 mu-law levels of what the WaveNet predicts. With
    linear prediction (the default model) that is the excitation, not the waveform: such a bound compares
    with those of similar models only.
    """
    from audiovq.evaluation.likelihood import score_file
    from audiovq.tokenizer import load

    tokenizer = load(model, prior=prior)
    for source in sources:
        facts = score_file(tokenizer, source, speakers or 0, bound)
        if as_json:
            click.echo(json.dumps({"file": str(source), **facts}, ensure_ascii=False))
            continue
        values = [f"{k.replace('_', ' ')} {_text(v)}" for k, v in facts.items() if not isinstance(v, dict)]
        click.echo(f"{source}: {'  '.join(values)}")
        for value in facts.values():
            for name, bits in value.items() if isinstance(value, dict) else ():
                click.echo(f"    {name:<12} {bits:.3f} bits a step")


def _text(value: float | list[float]) -> str:
    """A number, or several joined by plus signs."""
    if isinstance(value, list):
        return " + ".join(map(_text, value))
    return str(value) if isinstance(value, int) else f"{value:.3f}"
