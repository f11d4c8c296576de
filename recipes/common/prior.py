"""Stage prior: a WaveNet over the codes of the prepared corpus; goes on from its checkpoint."""

from __future__ import annotations

from audiovq.cli.recipe import Run, say

INPUTS = ("corpus", "config", "overrides", "prior_config", "prior_overrides")
TOGETHER = True


def main(run: Run) -> None:
    """Train `run.prior_config` on the codes of `run.model`."""
    from audiovq.training.prior import main_prior

    prior = main_prior(
        run.prior_config,
        data=run.prepared,
        out=run.out / "prior",
        model=run.model,
        overrides=run.prior_overrides,
        **run.training,
    )
    say(f"{prior}: the trained prior")
