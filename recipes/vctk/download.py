"""Stage download: VCTK 0.92, 11.7 GB, into RUN/download; nothing if a folder was given."""

from __future__ import annotations

import logging

from audiovq.io.progress import ProgressBar
from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "url", "checksum")

logger = logging.getLogger(__name__)

NAME = "VCTK-Corpus-0.92"


def main(run: RecipeRun) -> None:
    """Fetch and unpack what is missing."""
    if run.corpus is not None:
        logger.info("download: not needed, %s was given", run.corpus)
        return
    from audiovq.data.download import download_file, unzip
    from audiovq.data.vctk import vctk_url_and_checksum

    url, checksum = (run.url, run.checksum) if run.url else vctk_url_and_checksum()
    folder = run.out / "download" / NAME
    archive = download_file(url, folder.with_name(f"{NAME}.zip"), checksum, progress=ProgressBar("B").show)
    count = unzip(archive, folder, progress=ProgressBar("B").show)
    logger.info("%s: %s files unpacked; %s is no longer needed", folder, count, archive)
