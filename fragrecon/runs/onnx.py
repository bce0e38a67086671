"""Models as ONNX: written by `torch.onnx`, and compared with the model by ONNX Runtime. Needs the extra ``onnx``."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Solver

TOLERANCE = 1e-3
"""Maximum difference between ONNX Runtime and torch, as a share of the greatest absolute value in the embeddings."""


class PuzzleEncoder(nn.Module):
    """A model as a function of puzzles (B, F, C, h, w): embeddings and, of a `Solver`, the rest of its `Solution`.

    Args:
        model: model in eval mode.
        puzzle: a puzzle (1, F, C, h, w), to find the names of the outputs.

    Attributes:
        names: names of the outputs.
    """

    def __init__(self, model: FragmentModel, puzzle: Tensor) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.names = list(self.outputs(puzzle))

    def outputs(self, fragments: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name, the embeddings first."""
        if isinstance(self.model, Solver):
            return {name: found for name, found in vars(self.model.solve(fragments)).items() if found is not None}
        return {"embeddings": self.model.encode(fragments)}

    def forward(self, fragments: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in the order of ``names``."""
        return tuple(self.outputs(fragments).values())


def to_onnx(model: FragmentModel, puzzle: Tensor) -> tuple[bytes, float | None]:
    """Convert a model to ONNX, for any number of puzzles and of fragments.

    Args:
        model: model in eval mode, on the CPU.
        puzzle: a puzzle (1, F, C, h, w) to compare ONNX Runtime with torch on.

    Returns:
        The ONNX file, and the greatest absolute difference of an embedding; None if ONNX Runtime is not installed.

    Raises:
        ConfigError: a package is missing, the model cannot be converted, or its embeddings differ.
    """
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'{" and ".join(missing)} not installed: pip install "fragrecon[onnx]"')
    name, encoder = type(model).__name__, PuzzleEncoder(model, puzzle).eval()
    try:
        content = _converted(encoder, puzzle)
        return content, _difference(encoder, content, puzzle)
    except Exception as error:  # torch.onnx and ONNX Runtime raise all kinds
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
        raise ConfigError(f"{name} cannot be converted to ONNX ({reason})") from error


def _converted(encoder: PuzzleEncoder, puzzle: Tensor) -> bytes:
    """Convert; the example has other numbers of puzzles and fragments than ``puzzle``, so that neither is fixed."""
    example = torch.cat([puzzle, puzzle.flip(1)])[:, : max(2, puzzle.shape[1] - 1)].contiguous()
    sizes = {0: torch.export.Dim("puzzles"), 1: torch.export.Dim("fragments")}
    # The fused kernels of attention return strides that the conversion cannot follow.
    with _quiet(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        program = torch.export.export(encoder, (example,), dynamic_shapes=(sizes,))
        converted = torch.onnx.export(
            program,
            dynamic_shapes=({0: "puzzles", 1: "fragments"},),
            input_names=["fragments"],
            output_names=encoder.names,
            verbose=False,
        )
    assert converted is not None
    content: bytes = converted.model_proto.SerializeToString()
    return content


def _difference(encoder: PuzzleEncoder, content: bytes, puzzle: Tensor) -> float | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["embeddings"], {"fragments": puzzle.numpy()})
    with torch.inference_mode():
        expected = encoder(puzzle)[0]
    difference, greatest = float((torch.from_numpy(found) - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * greatest:
        raise ValueError(f"ONNX Runtime differs from torch by up to {difference:.1e}, for values up to {greatest:.1e}")
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, which log each step and warn of packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
