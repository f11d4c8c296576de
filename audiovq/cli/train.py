"""The verbs that train: `audiovq train`, `prior`, `image train` and `image prior`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Unpack

import click

from audiovq.cli import options
from audiovq.training.options import RunOptions

_logger = logging.getLogger(__name__)

_RECORDINGS = (
    "Folder of recordings to train on, in any format and at any sample rate. Names of subfolders become "
    "names of speakers; or a file FOLDER/manifest.tsv lists path, speaker and split of every recording."
)

_PICTURES = (
    "Pictures to train on: a folder of PNG or JPEG files (names of subfolders are classes), a folder with "
    "the idx files of Fashion-MNIST or the binary files of CIFAR-10, or an .npz file with arrays images and "
    "(optional) labels."
)


@click.command()
@options.config_argument
@options.training_options(_RECORDINGS)
@options.init_option
@options.stages_option
@options.snapshot_option
@options.force_snapshot_option
def train(
    config: Path,
    data: Path,
    out: Path | None,
    overrides: list[str],
    init: Path | None,
    stages: tuple[str, ...],
    snapshot: Path | None,
    force: bool,
    **flags: Unpack[options.RunFlags],
) -> None:
    """Train a model on your own recordings.

    CONFIG is a TOML file, or the name of a configuration that ships: default, paper-vctk or paper-phonemes.
    The result is RUN/model.safetensors. To train on several GPUs or machines, start the same command with
    torchrun, for example:

    \b
      torchrun --nproc-per-node 4 -m audiovq train default --data FOLDER --device cuda
    """
    if snapshot is not None:
        options.check_writable(snapshot, force)
    from audiovq.training.speech import main_train

    run_options = RunOptions(out or Path("runs", config.stem), snapshot=snapshot, **flags)
    model = main_train(config, data, run_options, overrides, init, stages)
    _logger.info("%s: the %s", model, "trained model" if snapshot is None else "model so far")


@click.command()
@click.argument("config", type=options.PATH, default="prior")
@options.model_option
@options.training_options(_RECORDINGS)
@options.snapshot_option
@options.force_snapshot_option
def prior(
    config: Path,
    model: Path | None,
    data: Path,
    out: Path | None,
    overrides: list[str],
    snapshot: Path | None,
    force: bool,
    **flags: Unpack[options.RunFlags],
) -> None:
    """Train the prior of a model: it predicts the next code.

    The prior is what `audiovq generate`, `audiovq score` and .avq files need. CONFIG is a TOML file; the
    default is the configuration `prior` that ships.

    The recordings are encoded once and kept in RUN/codes. The result is RUN/prior.safetensors: put it beside
    the model, or name it with --prior. At the end a table shows the bits that a code of the held-out
    recordings takes, under the prior and under simpler models.
    """
    if snapshot is not None:
        options.check_writable(snapshot, force)
    from audiovq.training.prior import main_prior

    run_options = RunOptions(out or Path("runs", config.stem), snapshot=snapshot, **flags)
    path = main_prior(config, data, run_options, overrides, model)
    _logger.info("%s: the %s", path, "trained prior" if snapshot is None else "prior so far")


@click.command("train")
@options.config_argument
@options.training_options(_PICTURES)
@options.init_option
@options.stages_option
def image_train(
    config: Path,
    data: Path,
    out: Path | None,
    overrides: list[str],
    init: Path | None,
    stages: tuple[str, ...],
    **flags: Unpack[options.RunFlags],
) -> None:
    """Train a model on pictures, and the prior over its codes.

    CONFIG is a TOML file, or the name of a configuration that ships: image-fashion-mnist, image-cifar10,
    image-folder (4 x 4 pixels per code) or image-folder-8x (8 x 8). The result is RUN/model.safetensors.
    """
    from audiovq.training.image import main_image_train

    run_options = RunOptions(out or Path("runs", config.stem), **flags)
    path = main_image_train(config, data, run_options, overrides, init, stages)
    _logger.info("%s: the trained model", path)


@click.command("prior")
@options.config_argument
@options.image_model_option
@options.training_options(_PICTURES)
def image_prior(
    config: Path,
    model: Path | None,
    data: Path,
    out: Path | None,
    overrides: list[str],
    **flags: Unpack[options.RunFlags],
) -> None:
    """Train a new prior for a finished model; its codes do not change.

    CONFIG, as for `audiovq image train`, gives the size of the prior and its training stage pixelcnn;
    everything else is taken from the model. The result is RUN/model.safetensors: the model with its new
    prior. RUN defaults to runs/CONFIG-prior.
    """
    from audiovq.image.tokenizer import DEFAULT_IMAGE_MODEL
    from audiovq.training.image import main_image_prior

    run_options = RunOptions(out or Path("runs", f"{config.stem}-prior"), **flags)
    path = main_image_prior(config, data, run_options, overrides, model or DEFAULT_IMAGE_MODEL)
    _logger.info("%s: the model with its new prior", path)
