"""Stage evaluate: scores of held-out pictures on standard output, and reconstructions.png."""

from __future__ import annotations

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")


def main(run: RecipeRun) -> None:
    """Score, and draw originals beside their reconstructions."""
    from audiovq.evaluation.image import evaluate_images, format_image_scores
    from audiovq.image.tokenizer import load_image_tokenizer

    grid_out = run.out / "reconstructions.png"
    scores = evaluate_images(load_image_tokenizer(run.model), run.given(), grid_out=grid_out, force=True)
    print(format_image_scores(scores))
