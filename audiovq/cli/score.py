"""`audiovq score`: how likely recordings are under the prior, and under each speaker's voice."""

from __future__ import annotations

import json
from pathlib import Path

import click

from audiovq.cli import options


@click.command()
@click.argument("sources", metavar="IN...", nargs=-1, required=True, type=options.PATH)
@options.model_option
@options.prior_option("Without a prior, this verb fails.")
@options.number_option(
    "--speakers",
    text="Also list the N trained speakers whose voices best match the recording, with the bits per step "
    "that its codes take under each voice; fewer bits match better. Default: none.",
)
@click.option(
    "--bound",
    is_flag=True,
    help="Also compute the likelihood bound of the whole model, in bits per sample at 16 kHz. This runs the "
    "WaveNet over every sample; code files are an error.",
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

    IN is one or more audio files or code files (.npy, .avq). Runs on the CPU.

    One line is printed per input: mean bits per code step (16 ms with the bundled model), bits per second,
    and bits per code at each level (coarsest first), under the prior with no voice given and with the
    recording's own voice. A .npy without its .json has no voice and gets the first only. For comparison:
    without a prior, each code costs log2(codebook size) bits.

    --bound adds the bits that the decoder needs per sample given the codes, and the sum of both: the bound
    that papers on VQ-VAEs report. Each sample is one of 256 mu-law levels of the signal that the WaveNet
    predicts. With linear prediction (the bundled model) that is the excitation, not the waveform; such bounds
    are comparable only between similar models.

    \b
    Example:
      audiovq score speech.wav --speakers 5
    """
    from audiovq.evaluation.likelihood import measure_recording_bits
    from audiovq.tokenizer import load

    tokenizer = load(model, prior=prior)
    for source in sources:
        facts = measure_recording_bits(tokenizer, source, speakers or 0, bound)
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
