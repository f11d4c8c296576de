"""`audiovq score`: how likely recordings are under the prior, and under each speaker's voice."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import echo_json, say, stage_bars


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
@options.partial_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def score(
    sources: tuple[Path, ...],
    model: Path | None,
    prior: Path | None,
    speakers: int | None,
    bound: bool,
    partial: bool,
    as_json: bool,
) -> None:
    """Measure how likely recordings are under the model's prior.

    IN is one or more audio files, code files (.npy, .avq) or folders of them. Of several, a file that cannot
    be read is reported and does not stop the others. Runs on the CPU.

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
    checks.check_exists(*sources)
    checks.check_files(prior)
    checks.read_model_header(model)
    from audiovq.audio.reader import AUDIO_EXTENSIONS
    from audiovq.cli.folders import for_each_file, list_files

    endings = (".npy", ".avq") if not bound else ()
    files = list_files(sources, (*AUDIO_EXTENSIONS, *endings), {".json"})
    from audiovq.evaluation.likelihood import measure_recording_bits
    from audiovq.tokenizer import load

    tokenizer = load(model, prior=prior)

    def score_file(source: Path) -> None:
        with stage_bars():
            facts = measure_recording_bits(tokenizer, source, speakers or 0, bound, partial)
        if "partial" in facts:
            say(f"{source}: damaged, {facts['seconds']:.2f} s of it taken")
        if as_json:
            echo_json({"file": str(source), **facts})
            return
        values = [f"{k.replace('_', ' ')} {_text(v)}" for k, v in facts.items() if not isinstance(v, dict)]
        click.echo(f"{source}: {'  '.join(values)}")
        for value in facts.values():
            for name, bits in value.items() if isinstance(value, dict) else ():
                click.echo(f"    {name:<12} {bits:.3f} bits a step")

    for_each_file(files, score_file)


def _text(value: float | bool | list[float]) -> str:
    """A number, or several joined by plus signs."""
    if isinstance(value, list):
        return " + ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
