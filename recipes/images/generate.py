"""Stage generate: samples.png, new pictures from the prior; a row for each class, if there are any."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")

COUNT = 10

logger = logging.getLogger(__name__)


def main(run: RecipeRun) -> None:
    """Draw the grid anew."""
    import numpy as np

    from audiovq.image.files import tile_pictures, write_picture
    from audiovq.image.tokenizer import load_image_tokenizer

    tokenizer = load_image_tokenizer(run.model)
    grids = []
    if tokenizer.classes:
        for number, label in enumerate(tokenizer.classes):
            grids += tokenizer.generate(COUNT, label, first=number * COUNT)
    else:
        grids = tokenizer.generate(COUNT**2)
    out = run.out / "samples.png"
    columns = COUNT if len(tokenizer.classes) > 1 else None
    write_picture(
        out, tile_pictures(np.stack([tokenizer.decode(codes) for codes in grids]), columns), force=True
    )
    logger.info("%s: %d pictures", out, len(grids))
