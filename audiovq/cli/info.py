"""`audiovq info` and `audiovq speakers`: facts of a code file or a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks
from audiovq.cli.messages import echo_json, stage_bars
from audiovq.cli.options import PATH, json_option, model_option
from audiovq.errors import printable

if TYPE_CHECKING:
    from audiovq.prior.bitstream import Bitstream
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


_MAX_SECONDS_TO_COMPRESS = 300.0
"""Longer recordings are not compressed just to find out how many bits they take."""
_IN_ONE_LINE = ("steps", "levels", "seconds", "sample_rate_hz", "stored_bits_per_second", "speaker")
"""Facts of each of several files."""


@click.command()
@click.argument("paths", metavar="[FILE]...", nargs=-1, type=PATH)
@model_option
@json_option
def info(paths: tuple[Path, ...], model: Path | None, as_json: bool) -> None:
    """Describe code files or a model.

    FILE is a code file (.npy or .avq), a folder of code files, or a speech model (.safetensors); `audiovq
    image info` describes those of images. Without FILE, the model of --model is described; with a model as
    FILE, --model is an error. Of several files, each is described in one line, or with --json as one line of
    JSON; a file that cannot be read is reported and does not stop the others.

    For codes, prints the number of steps, levels and codes, length, sample rate, loudness, voice, and bits
    per second: `bits per second` is log2 of the codebook size for each code, `stored bits per second` the
    size as .avq (only for codes of up to 5 minutes or an .avq file, and if the model has a prior). For codes
    from a different model, pass --model: without it only the header of an .avq file is described, and the
    stored bit rate of a .npy file is not shown.

    For a model, prints its rates, levels, sizes, delays and number of speakers.

    \b
    Examples:
      audiovq info speech.avq
      audiovq info codes/ --json
    """
    are_codes = [path.is_dir() or path.suffix in (".npy", ".avq") for path in paths]
    if len(paths) > 1 and not all(are_codes):
        raise click.UsageError("Several FILEs must be code files (.npy, .avq) or folders of them.")
    if paths and not all(are_codes) and model is not None:
        raise click.UsageError("--model is for a code file, but FILE is a model.")
    checks.check_exists(*paths)
    checks.read_model_header(model if not paths or all(are_codes) else paths[0])
    if not paths or not all(are_codes):
        from audiovq.tokenizer import load

        echo_facts(load(paths[0] if paths else model).info(), as_json)
        return
    _describe_codes(paths, model, as_json)


def _describe_codes(paths: tuple[Path, ...], model: Path | None, as_json: bool) -> None:
    from audiovq.cli.folders import for_each_file, list_files

    files = list_files(paths, (".npy", ".avq"), {".json"})
    checks.check_files(*files)
    from audiovq.tokenizer import load

    tokenizer = load(model)

    def describe(path: Path) -> None:
        with stage_bars():
            facts = _code_facts(path, tokenizer)
        if len(files) == 1 and not paths[0].is_dir():
            echo_facts(facts, as_json)
        elif as_json:
            echo_json({"file": str(path), **facts})
        else:
            shown = {name.replace("_", " "): facts[name] for name in _IN_ONE_LINE if facts.get(name)}
            click.echo(f"{path}: {'  '.join(f'{name} {_text(value)}' for name, value in shown.items())}")

    for_each_file(files, describe)


@click.command()
@model_option
@json_option
def speakers(model: Path | None, as_json: bool) -> None:
    """List the trained speakers of a model.

    Prints each speaker's number, name, sex and minutes of training speech. Use the number or the name with
    --speaker in `audiovq decode`, `generate` and `convert`.
    """
    known = checks.read_model_header(model).speakers
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
    if path.suffix == ".avq":
        from audiovq.prior.bitstream import read_bitstream

        header = read_bitstream(path)
        if header.model != str(model["fingerprint"])[:8]:
            return _header_facts(path, header)
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


def _header_facts(path: Path, header: Bitstream) -> dict[str, object]:
    """Facts of an .avq file of another model, which its header holds."""
    rate = header.sample_rate
    seconds = header.num_samples / rate if header.num_samples and rate else None
    return {
        "steps": header.steps,
        "levels": header.levels,
        "stored_bits_per_second": 8 * path.stat().st_size / seconds if seconds else None,
        "seconds": seconds,
        "sample_rate_hz": rate,
        "samples": header.num_samples,
        "gain_db": 20 * math.log10(header.gain) if header.gain else None,
        "digital_silence": True if header.gain == 0 else None,
        "part_of_a_damaged_recording": True if header.partial else None,
        "speaker": header.speaker,
        "fingerprint": header.model,
        "prior": header.prior,
        "made_by_this_model": False,
    }


def _stored_rate(path: Path, tokenizer: Tokenizer, codes: CodeSequence) -> float | None:
    """Bits a second as `.avq`, header and voice included; None where the model has no prior."""
    from audiovq.errors import AudiovqError
    from audiovq.speech.modelfolder import find_prior_path

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
