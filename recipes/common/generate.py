"""Stage generate: a few seconds of new speech by each of a few speakers, in RUN/samples."""

from __future__ import annotations

from audiovq.cli.recipe import Run, command

INPUTS = ("corpus", "config", "overrides", "prior_config", "prior_overrides")

SPEAKERS = 4
SECONDS = 4


def main(run: Run) -> None:
    """Generate what is not there yet, or by an older prior; without speakers, by nobody in particular."""
    from audiovq.speech.modelfile import read_header

    folder = run.out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    names = [speaker.name for speaker in read_header(run.model).speakers][:SPEAKERS]
    for name in names or [""]:
        target = folder / f"{name or 'nobody'}.wav"
        speaker = ("--speaker", name) if name else ()
        if target.exists() and target.stat().st_mtime > run.prior.stat().st_mtime:
            continue
        target.unlink(missing_ok=True)
        options = ("--model", run.model, "--prior", run.prior, *speaker, "--seconds", str(SECONDS))
        command("generate", *options, "-o", target)
