"""`audiovq info` and `audiovq speakers`: what a code file or a model says of itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.options import model_option

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


STORED_SECONDS = 300.0
"""Longer recordings are not compressed just to say how many bits they take."""


@click.command()
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(path: Path | None, model: Path | None, as_json: bool) -> None:
    """Say what a code file or a model is.

    FILE ends in .npy or .avq (codes) or .safetensors (a model); without it, the model is described. How many
    bits codes take when they are stored depends on the model that made them: give --model if it was not the
    one that ships.
    """
    from audiovq.tokenizer import load

    if path is not None and path.suffix in (".npy", ".avq"):
        facts = _about_codes(path, load(model))
    else:
        facts = load(path or model).info()
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' '):<24} {_text(value)}")


@click.command()
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def speakers(model: Path | None, as_json: bool) -> None:
    """List the speakers a model was trained on.

    Number, name, sex, and minutes of speech that it learned from.
    """
    from audiovq.tokenizer import load

    rows = [(s.number, s.name, s.sex, s.minutes) for s in load(model).speakers]
    if as_json:
        names = ("number", "name", "sex", "minutes")
        click.echo(
            json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, ensure_ascii=False)
        )
        return
    width = max((len(name) for _, name, _, _ in rows), default=4)
    click.echo(f"{'number':>6}  {'name':<{width}}  sex  minutes")
    for number, name, sex, minutes in rows:
        click.echo(f"{number:>6}  {name:<{width}}  {sex or '-':<3}  {minutes:7.1f}")


def _about_codes(path: Path, tokenizer: Tokenizer) -> dict[str, object]:
    """Facts of a code file; `tokenizer` is of the model that may have made it."""
    model = tokenizer.info()
    codes = tokenizer.load_codes(path)
    if codes.fingerprint is None and codes.codebook_size is None:
        codes = codes.for_model(tokenizer.code_format)
    same = codes.fingerprint is not None and codes.fingerprint == model.get("fingerprint")
    size = codes.codebook_size
    return {
        "steps": len(codes),
        "levels": codes.levels,
        "codes": len(codes.codes),
        "distinct_codes": len(set(codes.codes.tolist())),
        "codebook_size": size,
        "hop_samples": codes.hop,
        "steps_per_second": codes.frame_rate,
        "codes_per_second": codes.frame_rate * codes.levels,
        "bits_per_second": codes.frame_rate * codes.levels * math.log2(size) if size else None,
        "stored_bits_per_second": _stored_rate(path, tokenizer, codes) if same else None,
        "voice_bits": model.get("voice_bits") if same and codes.voice is not None else None,
        "seconds": codes.seconds,
        "sample_rate_hz": codes.sample_rate,
        "samples": codes.num_samples,
        "gain_db": 20 * math.log10(codes.gain) if codes.gain else None,
        "digital_silence": True if codes.gain == 0 else None,
        "part_of_a_damaged_recording": True if codes.partial else None,
        "voice": None if codes.voice is None else list(codes.voice),
        "speaker": codes.speaker,
        "fingerprint": codes.fingerprint,
        "made_by_this_model": same,
    }


def _stored_rate(path: Path, tokenizer: Tokenizer, codes: CodeSequence) -> float | None:
    """Bits a second as `.avq`, header and voice included; None where the model has no prior."""
    from audiovq.errors import AudiovqError
    from audiovq.prior.sampler import prior_beside

    if path.suffix == ".avq":
        return 8 * path.stat().st_size / codes.seconds
    if codes.seconds > STORED_SECONDS or not prior_beside(tokenizer.path).exists():
        return None
    try:
        return 8 * len(tokenizer.prior.compressed(codes)) / codes.seconds
    except AudiovqError:
        # Codes without a prior that fits them are described all the same.
        return None


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}".removesuffix(".00")
        case list():
            return " ".join(map(str, value))
    return str(value)
