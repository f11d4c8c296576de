"""`audiovq merge`: parts of a model that were trained side by side, as one file."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import say


@click.command()
@click.argument("base", type=options.PATH)
@click.argument("out", type=options.PATH)
@options.path_option(
    "--spectral-head",
    metavar="MODEL",
    text="Take the spectral head (the decoder of --fast) from this model file.",
)
@options.path_option("--wavenet", metavar="MODEL", text="Take the WaveNet decoder from this model file.")
@options.path_option(
    "--prior",
    metavar="PRIOR",
    text="The prior of BASE; it is copied to OUT-prior.safetensors (OUT without extension), as the prior of "
    "the merged model. Default: no prior is copied.",
)
@options.overrides_option(
    "a setting of the model that no weight depends on",
    "output_gain_db=3",
    "KEY is one of: name (the model's name, as `audiovq info` shows it; codes do not depend on it); "
    "corrections (the default of `decode --corrections`); correction_momentum (from 0 to below 1: the "
    "momentum of these passes, as in fast Griffin-Lim); output_gain_db (gain in dB applied after decoding). ",
)
@options.force_option
def merge(
    base: Path,
    out: Path,
    spectral_head: Path | None,
    wavenet: Path | None,
    prior: Path | None,
    overrides: list[str],
    force: bool,
) -> None:
    """Merge parts that were trained separately into one model.

    BASE and OUT are model files (.safetensors). OUT is a copy of BASE, including its codebook, except for the
    parts taken from other models with --spectral-head and --wavenet and the settings changed with --set. At
    least one option is required.

    Both parts are trained with the codes frozen, so each can be trained in a separate run that starts from
    BASE. Models that differ from BASE in any other part are refused.

    \b
    Example:
      audiovq train default --data FOLDER --stage wavenet --init base.safetensors --out runs/wavenet
      audiovq merge base.safetensors merged.safetensors --wavenet runs/wavenet/model.safetensors
    """
    if spectral_head is None and wavenet is None and prior is None and not overrides:
        raise click.UsageError("At least one of --spectral-head, --wavenet, --prior and --set is required.")
    checks.check_ending(out, (".safetensors",), several=False)
    checks.check_files(base, spectral_head, wavenet, prior)
    for model in (base, spectral_head, wavenet):
        if model is not None:
            checks.read_model_header(model)
    checks.check_writable(out, force)
    from audiovq.training.merge import merge_model_parts

    found = {"spectral_head": spectral_head, "wavenet": wavenet}
    parts = {name: path for name, path in found.items() if path is not None}
    fingerprint = merge_model_parts(base, parts, out, overrides, force, prior)
    say(f"{out}: model {fingerprint}")
