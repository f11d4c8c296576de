"""`audiovq page`: one HTML file to listen to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from audiovq.cli import checks, options
from audiovq.cli.codec_options import codecs_option, systems_option
from audiovq.cli.messages import say
from audiovq.evaluation.page_options import PageOptions

_DEFAULT_OUT = Path("page.html")


@click.command()
@click.argument("recordings", nargs=-1, metavar="[AUDIO...]", type=options.PATH)
@options.path_option("-o", "--out", metavar="OUT", text="Page to write (.html). Default: page.html.")
@click.option("--title", default="audiovq", show_default=True, metavar="TEXT", help="Title of the page.")
@options.model_option
@options.prior_option("It sets the stored bits; without one, they equal the nominal bits.")
@systems_option(
    "Also play this system, as `audiovq evaluate` names them: mu-law, opus-6, codec2-1200, fast-1, ... "
    "It is an error if it cannot be run here. Repeatable."
)
@codecs_option(
    "Also play a codec of your own, for example --codec 'mine=./codec.sh {i} {o}'; see `audiovq evaluate "
    "--help`. Repeatable."
)
@click.option(
    "--speaker",
    "speakers",
    multiple=True,
    metavar="NAME|NUMBER",
    help="Also play each recording converted to the voice of this trained speaker. Repeatable.",
)
@click.option(
    "--voice",
    "voices",
    multiple=True,
    type=options.PATH,
    metavar="AUDIO",
    help="Also play each recording converted to the voice in this audio file. Repeatable.",
)
@options.number_option(
    "--generate", "Also play N recordings that the prior generates.", default=0, least=0, metavar="N"
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 60, min_open=True),
    default=4.0,
    show_default=True,
    metavar="S",
    help="Length of each recording of --generate in seconds.",
)
@options.number_option(
    "--limit",
    "Take at most N recordings of each folder, speakers in turn; if its manifest.tsv names held-out ones, "
    "only those.",
    default=8,
)
@click.option(
    "--scores",
    is_flag=True,
    help="Also show PESQ, ESTOI, DistillMOS and voice similarity. Requires `pip install 'audiovq[eval]'`.",
)
@options.force_option
def page(recordings: tuple[Path, ...], out: Path | None, **values: Any) -> None:
    """Write one HTML file to listen to.

    AUDIO is one or more audio files or folders. The page has a player and a spectrogram of each recording: as
    it is, decoded by the WaveNet from each number of levels, and decoded by `--fast`; options add more.
    Beside them stand the bits: stored in an .avq file, and nominal. Recordings of 20 s or longer in a folder
    are skipped; name them one by one.

    The page opens from the disk in any browser, without a network, on a phone too. Keys 1 to 9 switch between
    the versions of a recording at the same moment. Sound is inside the file, as FLAC at 16 kHz: about 28 kB
    for a second of a version.

    \b
    Examples:
      audiovq page speech.wav
      audiovq page a.wav b.wav -o compare.html --system opus-6 --voice someone.wav --generate 2
    """
    out = out or _DEFAULT_OUT
    if not recordings and not values["generate"]:
        raise click.UsageError("Name at least one AUDIO, or give --generate.")
    checks.check_ending(out, checks.PAGE_ENDINGS, several=False)
    checks.check_exists(*recordings)
    checks.check_files(*values["voices"], values["prior"])
    header = checks.read_model_header(values["model"])
    names = [checks.choose_speaker(name, header, values["model"]) for name in values.pop("speakers")]
    speakers = tuple(name for name in names if name is not None)
    checks.check_writable(out, values["force"])
    for speaker in speakers:
        checks.say_speaker(speaker, header)
    from audiovq.evaluation.listening import make_listening_page

    made = make_listening_page(recordings, PageOptions(out, speakers=speakers, **values))
    size = made.num_bytes / 1e6
    say(f"{out}: {made.recordings} recordings, {made.players} players, {size:.1f} MB; open it in a browser")
