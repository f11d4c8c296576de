"""`audiovq info` and `audiovq speakers`: facts of a code file or a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.options import PATH, json_option, model_option
from audiovq.errors import printable

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


_MAX_SECONDS_TO_COMPRESS = 300.0
"""Longer recordings are not compressed just to find out how many bits they take."""


@click.command()
@click.argument("path", metavar="[FILE]", required=False, type=PATH)
@model_option
@json_option
def info(path: Path | None, model: Path | None, as_json: bool) -> None:
    """Describe a code file or a model.

    FILE is a code file (.npy or .avq) or a speech model (.safetensors); `audiovq image info` describes those
    of images. Without FILE, the model of --model is described; with a model as FILE, --model is an error.

    For codes, prints the number of steps, levels and codes, length, sample rate, loudness, voice, and bits
    per second: `bits per second` is log2 of the codebook size for each code, `stored bits per second` the
    size as .avq (only for codes of up to 5 minutes or an .avq file, and if the model has a prior). For codes
    from a different model, pass --model: without it an .avq file cannot be read, and the stored bit rate of a
    .npy file is not shown.

    For a model, prints its rates, levels, sizes, delays and number of speakers.
    """
    is_codes = path is not None and path.suffix in (".npy", ".avq")
    if path is not None and not is_codes and model is not None:
        raise click.UsageError("--model is for a code file, but FILE is a model.")
    from audiovq.tokenizer import load

    if path is not None and is_codes:
        echo_facts(_code_facts(path, load(model)), as_json)
    else:
        echo_facts(load(path or model).info(), as_json)


@click.command()
@model_option
@json_option
def speakers(model: Path | None, as_json: bool) -> None:
    """List the trained speakers of a model.

    Prints each speaker's number, name, sex and minutes of training speech. Use the number or the name with
    --speaker in `audiovq decode`, `generate` and `convert`.
    """
    from audiovq.tokenizer import load

    known = load(model).speakers
    if as_json:
        fields = ("number", "name", "sex", "minutes")
        rows = [{field: getattr(speaker, field) for field in fields} for speaker in known]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(speaker.name) for speaker in known), default=4)
    click.echo(f"{'number':>6}  {'name':<{width}}  sex  minutes")
    for s in known:
        click.echo(f"{s.number:>6}  {s.name:<{width}}  {s.sex or '-':<3}  {s.minutes:7.1f}")


def echo_facts(facts: Mapping[str, object], as_json: bool) -> None:
    """Print facts by name, one a line; None in JSON alone."""
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' '):<24} {_text(value)}")


def _code_facts(path: Path, tokenizer: Tokenizer) -> dict[str, object]:
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
    from audiovq.prior.sampler import find_prior_path

    if path.suffix == ".avq":
        return 8 * path.stat().st_size / codes.seconds
    if codes.seconds > _MAX_SECONDS_TO_COMPRESS or not find_prior_path(tokenizer.path).exists():
        return None
    try:
        return 8 * len(tokenizer.prior.compressed(codes)) / codes.seconds
    except AudiovqError:
        # The other facts hold without a prior that fits the codes.
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
    return printable(str(value))  # on one line, too
