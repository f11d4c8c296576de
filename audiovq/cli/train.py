"""The verbs that train: `audiovq train`, `prior`, `image train` and `image prior`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from audiovq.cli import checks, options
from audiovq.training.run_options import RunOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_logger = logging.getLogger(__name__)

_IMAGES = "Images to train on: a folder or an .npz file (`audiovq image train --help` lists the layouts)."


@click.command()
@options.config_argument
@options.training_options("Folder of recordings to train on, laid out as described above.")
@options.init_option
@options.stages_option("default: codes, spectral, wavenet; paper-vctk and paper-phonemes: end-to-end")
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
    **flags: Unpack[options.TrainingRunFlags],
) -> None:
    """Train a speech model on your own recordings.

    CONFIG is a TOML file, or the name of a bundled configuration: default (62.5 code steps per second, 3
    levels, codebook size 640), or those of the VQ-VAE paper, paper-vctk (250 steps per second, 1 level,
    codebook size 512) and paper-phonemes (25 steps per second, 1 level, codebook size 128). A file named
    CONFIG takes precedence. To write your own, copy one from audiovq/config/presets;
    audiovq/config/speech.py and audiovq/config/training.py explain every key.

    DATA is searched for recordings including subfolders, in any format and at any sample rate. The name of
    the subfolder that directly contains a recording is its speaker; recordings in DATA itself have none.
    Alternatively, DATA/manifest.tsv lists the recordings: a tab-separated UTF-8 table with a header and the
    columns path (relative to DATA), speaker and, optionally, split and text (the transcript). Splits train
    and train-singles are trained on, eval-utts is held out (train.train_splits and train.eval_split in
    CONFIG), others are not used. Without splits, every 25th recording is held out; of 4 to 24
    recordings, only the last one; of fewer, none.

    The result is RUN/model.safetensors. `audiovq curves` draws RUN/metrics.csv, and TensorBoard, if it is
    installed, reads RUN/tensorboard. The prior is trained afterwards with `audiovq prior`. The speech and the
    time that the bundled model took are in audiovq/assets/MODEL_CARD.md.

    To train on several GPUs or machines, start the same command with torchrun. The batch size in CONFIG is
    that of all processes together:

    \b
      torchrun --nproc-per-node 4 -m audiovq train default --data DATA --device cuda
    """
    from audiovq.config.speech import SpeechConfig

    _check_input(config, overrides, SpeechConfig, data, init)
    _check_snapshot(snapshot, force)
    from audiovq.training.launch import _keep_freed_memory
    from audiovq.training.speech import train_speech_model

    _keep_freed_memory()
    run_options = RunOptions(out or Path("runs", config.stem), snapshot=snapshot, force=force, **flags)
    model = train_speech_model(config, data, run_options, overrides, init, stages)
    _logger.info("%s: the %s", model, "trained model" if snapshot is None else "model so far")


@click.command()
@click.argument("config", type=options.PATH, default="prior")
@options.model_option
@options.training_options(
    "Folder of recordings, usually the one the model was trained on. Subfolders are searched too; the name "
    "of the one that directly contains a recording is its speaker."
)
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
    **flags: Unpack[options.TrainingRunFlags],
) -> None:
    """Train a speech model's prior, which predicts the next code.

    `audiovq generate`, `audiovq score` and .avq files need the prior. CONFIG is a TOML file or the name of a
    bundled configuration; the default is the bundled `prior`. To write your own, copy
    audiovq/config/presets/prior.toml; audiovq/config/prior.py explains every key.

    The recordings are encoded once, and the codes are kept in RUN/codes; if these are codes of another model,
    that is an error. Held-out recordings are chosen as in `audiovq train`, and torchrun works as there. The
    result is RUN/prior.safetensors: move it next to the model, or name it with --prior.

    When training ends, a table shows the bits per code on held-out recordings for the prior and for simpler
    models: uniform, and unigrams and bigrams counted on the training data.
    """
    from audiovq.config.prior import PriorTrainingConfig

    _check_input(config, overrides, PriorTrainingConfig, data, None)
    checks.read_model_header(model)
    _check_snapshot(snapshot, force)
    from audiovq.training.launch import _keep_freed_memory
    from audiovq.training.prior import train_speech_prior

    _keep_freed_memory()
    run_options = RunOptions(out or Path("runs", config.stem), snapshot=snapshot, force=force, **flags)
    path = train_speech_prior(config, data, run_options, overrides, model)
    _logger.info("%s: the %s", path, "trained prior" if snapshot is None else "prior so far")


@click.command("train")
@options.config_argument
@options.training_options(
    "Images to train on: a folder or an .npz file, as described above. They are converted to the model's "
    "channels, and cut to or padded at the edges to its size at random places."
)
@options.init_option
@options.stages_option("image, then pixelcnn, the prior")
def image_train(
    config: Path,
    data: Path,
    out: Path | None,
    overrides: list[str],
    init: Path | None,
    stages: tuple[str, ...],
    **flags: Unpack[options.TrainingRunFlags],
) -> None:
    """Train a model on images, and the prior over its codes.

    CONFIG is a TOML file, or the name of a bundled configuration: image-fashion-mnist (greyscale, 28 x 28
    pixels), image-cifar10 (colour, 32 x 32), image-folder (colour patches of 64 x 64, 4 x 4 pixels per code)
    or image-folder-8x (patches of 128 x 128, 8 x 8 per code). To write your own, copy one from
    audiovq/config/presets; audiovq/config/image.py and audiovq/config/training.py explain every key.

    DATA is one of the following; the held-out part is named in brackets, and otherwise is every tenth image:

    \b
      - a folder of images; names of subfolders are classes [a subfolder test, val, valid or eval]
      - a folder with the idx files of MNIST or Fashion-MNIST [t10k-*]
      - a folder with the binary version of CIFAR-10 [test_batch.bin]
      - an .npz file, or a folder with just one: images, uint8 of shape (N, H, W) or (N, H, W, 3),
        and optionally labels, integers of shape (N,)

    The result is RUN/model.safetensors, which contains the prior. torchrun works as for `audiovq train`.
    """
    from audiovq.config.image import ImageConfig

    _check_input(config, overrides, ImageConfig, data, init)
    from audiovq.training.image import train_image_model
    from audiovq.training.launch import _keep_freed_memory

    _keep_freed_memory()
    run_options = RunOptions(out or Path("runs", config.stem), **flags)
    path = train_image_model(config, data, run_options, overrides, init, stages)
    _logger.info("%s: the trained model", path)


@click.command("prior")
@options.config_argument
@options.image_model_option
@options.training_options(
    _IMAGES,
    "runs/NAME-prior, where NAME is the file name of CONFIG without .toml",
    "train.stages.1.steps=5000",
    "Stages count from 0, as in CONFIG; keys of other parts of the model have no effect. ",
)
def image_prior(
    config: Path,
    model: Path | None,
    data: Path,
    out: Path | None,
    overrides: list[str],
    **flags: Unpack[options.TrainingRunFlags],
) -> None:
    """Train a new prior for a trained model and keep its codes.

    CONFIG is a TOML file or the name of a bundled configuration (`audiovq image train --help` lists them).
    Only its prior ([model.prior] and model.condition) and its [train]
    table with the stage pixelcnn are used; everything else is taken from the model, so a configuration of
    other images works. Classes are those of DATA. If the decoder is class-conditional, DATA must have the
    model's classes. The held-out part is chosen as in `audiovq image train`.

    The result is RUN/model.safetensors: the model with its new prior.
    """
    from audiovq.config.image import ImageConfig

    _check_input(config, overrides, ImageConfig, data, model)
    from audiovq.image.tokenizer import DEFAULT_IMAGE_MODEL_PATH
    from audiovq.training.image import train_image_prior
    from audiovq.training.launch import _keep_freed_memory

    _keep_freed_memory()
    run_options = RunOptions(out or Path("runs", f"{config.stem}-prior"), **flags)
    path = train_image_prior(config, data, run_options, overrides, model or DEFAULT_IMAGE_MODEL_PATH)
    _logger.info("%s: the model with its new prior", path)


def _check_input(
    config: Path, overrides: list[str], kind: type[DataclassInstance], data: Path, weights: Path | None
) -> None:
    """Find mistakes in the configuration, and files that are missing, before torch is imported."""
    from audiovq.config.toml import load_toml

    load_toml(config, overrides, kind)
    checks.check_exists(data)
    checks.check_files(weights)


def _check_snapshot(snapshot: Path | None, force: bool) -> None:
    if snapshot is not None:
        checks.check_ending(snapshot, (".safetensors",), several=False)
        checks.check_writable(snapshot, force)
