"""``mode=export``: write the weights, scores and model card of a run to a folder that opens like a run."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from fragrecon import files
from fragrecon.config.schema import Config, DataConfig
from fragrecon.data.puzzles import cut
from fragrecon.data.readers.synthetic import SMALLEST_SIDE, Synthetic
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel
from fragrecon.progress import progress
from fragrecon.report.card import model_card, notes
from fragrecon.report.terminal import say
from fragrecon.runs.checkpoints import half_weights, load_checkpoint, save_weights
from fragrecon.runs.onnx import to_onnx
from fragrecon.runs.read import run_of
from fragrecon.runs.write import CARD, CONFIG, METRICS_FILE, ONNX, STATUS, WEIGHTS, Record

log = logging.getLogger(__name__)


def main(config: Config, record: Record) -> dict[str, Any]:
    """Export a checkpoint of ``config.run``, by default the best.

    Args:
        config: job config.
        record: record of the job.

    Returns:
        The section ``export`` of the export's ``metrics.json``.

    Raises:
        ConfigError: ``run`` is an export, another setting is invalid, or ONNX is required and impossible.
        RunError: the run has no checkpoint or has not been scored.
    """
    assert config.export
    run = run_of(config)
    if run.is_export:
        raise ConfigError(f"{run.folder} is an export already; copy it, or export the run that it was made from")
    output = Path(config.output) if config.output else record.folder / "export"
    check_output(output)
    own, checkpoint = notes(config.export.notes, output / CARD), run.checkpoint
    metrics, model, puzzle = run.metrics, run.load_model(checkpoint), generated_puzzle(run.config.data)
    weights = half_weights(model)
    exported = copy.deepcopy(model)
    exported.load_state_dict(weights)
    onnx, converted = onnx_of(exported, puzzle, config.export.onnx)
    with torch.inference_mode():
        before, after = model.encode(puzzle), exported.encode(puzzle)
    export: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "facts": load_checkpoint(checkpoint)["facts"],
        "fragments": puzzle.shape[1],
        "embedding_difference": float((after - before).abs().max()),
        "embedding_greatest": float(before.abs().max()),
        "onnx": converted,
    }
    # Without a status, the folder cannot be opened, so an interrupted export is never taken for a complete one.
    (output / STATUS).unlink(missing_ok=True)
    export["sha256"] = save_weights(output / WEIGHTS, weights)
    (output / ONNX).unlink(missing_ok=True)
    if onnx is not None:
        with files.atomic_file(output / ONNX) as file:
            file.write(onnx)
    files.write_text(output / CONFIG, OmegaConf.to_yaml(OmegaConf.create(portable(run.config).to_dict())))
    files.write_json(output / METRICS_FILE, metrics | {"export": export})
    files.write_text(output / CARD, model_card(run, model, export, own))
    kept = ("status", "started", "finished", "machine", "commits")
    files.write_json(output / STATUS, {key: run.status[key] for key in kept if key in run.status})
    say(f"export: {output}")
    return export


def check_output(output: Path) -> None:
    """Check that nothing but an earlier export would be overwritten.

    Raises:
        ConfigError: the folder holds other files, or the path is that of a file.
    """
    files.check_links(output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; name a new folder")
    held = {path.name for path in output.iterdir()} - {"__init__.py", "__pycache__"} if output.is_dir() else set()
    if held and WEIGHTS not in held:
        raise ConfigError(
            f"output={output} holds other files, such as {min(held)}; name a new folder, an empty one, an earlier "
            "export, or a package that holds only __init__.py"
        )


def generated_puzzle(data: DataConfig) -> Tensor:
    """Return a puzzle (1, F, C, h, w) of at least two synthetic images, cut like those of the run."""
    channels, height, width = data.image_shape
    size = max(height, SMALLEST_SIDE), max(width, SMALLEST_SIDE)
    reader = Synthetic(size, channels, test_images=max(2, data.images_per_puzzle))
    images = torch.cat([torch.from_numpy(block.images) for block in reader.blocks("test")])[..., :height, :width]
    return cut(images.float() / 255, data.fragment_shape[1:]).flatten(0, 1).unsqueeze(0)


def onnx_of(model: FragmentModel, puzzle: Tensor, wanted: bool | str) -> tuple[bytes | None, dict[str, Any] | None]:
    """Convert the model to ONNX if it is wanted.

    Args:
        model: model with the exported weights.
        puzzle: puzzle (1, F, C, h, w) to compare on.
        wanted: ``export.onnx``: True, False, or ``auto``, which warns if it is impossible.

    Returns:
        The file and facts about it; None if there is no file.

    Raises:
        ConfigError: it is required and impossible.
    """
    if not wanted:
        return None, None
    try:
        with progress(f"converting to {ONNX}"):
            content, difference = to_onnx(model, puzzle)
    except ConfigError as error:
        if wanted is True:
            raise ConfigError(f"export.onnx=true: {error}") from error
        log.warning("%s is not written: %s", ONNX, error)
        return None, None
    if difference is None:
        log.warning("%s is not compared with torch, because onnxruntime is not installed", ONNX)
    return content, {"difference": difference}


def portable(config: Config) -> Config:
    """Return a config without paths of this machine, for any accelerator."""
    start = config.init_from if config.init_from and not Path(config.init_from).is_absolute() else None
    return replace(
        config,
        resume=None,
        init_from=start,
        data=replace(config.data, root=None, cache_dir=None),
        trainer=replace(config.trainer, accelerator="auto"),
    )
