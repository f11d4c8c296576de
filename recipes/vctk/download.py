"""Stage download: VCTK 0.92, 11.7 GB, into RUN/download; nothing if a folder was given."""

from __future__ import annotations

from audiovq.cli.recipe import Bar, Run, say

INPUTS = ("corpus", "url", "checksum")

NAME = "VCTK-Corpus-0.92"


def main(run: Run) -> None:
    """Fetch and unpack what is missing."""
    if run.corpus is not None:
        say(f"download: not needed, {run.corpus} was given")
        return
    from audiovq.data.download import download, unzip
    from audiovq.data.vctk import address

    url, checksum = (run.url, run.checksum) if run.url else address()
    folder = run.out / "download" / NAME
    archive = download(url, folder.with_name(f"{NAME}.zip"), checksum, progress=Bar("B"))
    count = unzip(archive, folder, progress=Bar("B"))
    say(f"{folder}: {count} files unpacked; {archive} is no longer needed")
