"""Example puzzles with the model's predictions, saved for the report.

Shapes: one puzzle of F fragments from N images, with a batch dimension of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import FragmentBatch, in_place
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.evaluation.matching import match
from fragrecon.models.base import Decoder, FragmentModel, Solver
from fragrecon.reassembly.rebuild import Placement, rebuild
from fragrecon.reassembly.solve import clues_and_groups

COUNT = 8
"""Number of example puzzles per run."""


@dataclass(frozen=True)
class Example:
    """A puzzle with a model's predictions, on the CPU.

    Attributes:
        batch: batch of this puzzle.
        grid: rows and columns of fragments in an image.
        embeddings: embeddings (1, F, D).
        groups: clusters (1, F) of the embeddings by KMeans.
        decoded: decoded embeddings (1, F, C, h, w) in [0, 1], if the model decodes.
        placement: image, cell and rotation of each fragment, if the model reassembles such puzzles.
    """

    batch: FragmentBatch
    grid: tuple[int, int]
    embeddings: Tensor
    groups: Tensor
    decoded: Tensor | None = None
    placement: Placement | None = None

    @property
    def images(self) -> Tensor:
        """Images (N, C, H, W) that the fragments were cut from."""
        return self.in_place(self.batch.fragments)

    def in_place(self, fragments: Tensor) -> Tensor:
        """Assemble fragments (1, F, C, h, w) into images (N, C, H, W) at the positions of the puzzle's fragments."""
        return in_place(fragments, self.batch, self.grid)

    @property
    def names(self) -> list[int | None]:
        """The image that each group is named after; see `fragrecon.evaluation.matching.match`."""
        return match(self._counts.numpy())

    @property
    def confusion(self) -> Tensor:
        """Counts (N, N) of the fragments of image i in the group named after image j; its diagonal has those in place.

        The other groups fill the columns of the images that no group is named after.
        """
        n = self.batch.images_per_puzzle
        table, names = torch.zeros(n, n, dtype=torch.float64), self.names
        left = iter(sorted(set(range(n)).difference(name for name in names if name is not None)))
        for counts, name in zip(self._counts, names, strict=True):
            table[:, next(left) if name is None else name] = counts
        return table

    @property
    def _counts(self) -> Tensor:
        """Fragments (groups, N) by group and image."""
        counts = agreement.contingency(self.groups, self.batch.source_ids)[0]
        return F.pad(counts, (0, self.batch.images_per_puzzle - counts.shape[1]))


@torch.inference_mode()
def example_of(
    model: FragmentModel, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol
) -> Example:
    """Apply a model in eval mode to a batch of one puzzle with float fragments on the model's device.

    Args:
        model: model in eval mode.
        batch: batch of one puzzle.
        grid: rows and columns of fragments in an image.
        protocol: clustering protocol.

    Returns:
        The puzzle with the predictions, on the CPU.
    """
    solution = model.solve(batch.fragments) if isinstance(model, Solver) and model.grid == grid else None
    embeddings = model.encode(batch.fragments) if solution is None else solution.embeddings
    decoded = model.decode(embeddings, batch.fragment_size).cpu() if isinstance(model, Decoder) else None
    placement = None
    if solution is not None:
        keys, k, memory = protocol.keys(batch), batch.images_per_puzzle, protocol.memory
        clues, groups, rotations = clues_and_groups(solution, batch.fragments, grid, k, keys, protocol.restarts, memory)
        placement = rebuild(clues, groups, grid, rotations=rotations, regroup=True, memory=memory)
    batch, embeddings = batch.to("cpu"), embeddings.float().cpu()
    return Example(batch, grid, embeddings, protocol.cluster(embeddings, batch)["kmeans"], decoded, placement)


def first_examples(
    model: FragmentModel,
    puzzles: FixedPuzzles,
    grid: tuple[int, int],
    protocol: ClusteringProtocol,
    device: torch.device,
    most: int = COUNT,
) -> list[Example]:
    """Return `example_of` the first puzzles, up to ``most``, computed one by one, so that they are independent."""
    parts = (slice(number, number + 1) for number in range(min(most, len(puzzles))))
    return [example_of(model, puzzles.read(part).to(device).as_float(), grid, protocol) for part in parts]


def arrays_of(examples: Sequence[Example]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays for ``Record.write_examples``; all examples must have the same shape."""

    def stacked(tensors: Sequence[Tensor]) -> npt.NDArray[Any]:
        return torch.cat(list(tensors)).numpy()

    images = torch.stack([example.images for example in examples])
    arrays = {
        "images": images.mul(255).round().to(torch.uint8).numpy(),
        "grid": np.array(examples[0].grid),
        "source_ids": stacked([example.batch.source_ids for example in examples]),
        "positions": stacked([example.batch.positions for example in examples]),
        "groups": stacked([example.groups for example in examples]),
    }
    placements = [example.placement for example in examples if example.placement]
    if placements:
        arrays["rebuilt_images"] = stacked([placement.images for placement in placements])
        arrays["rebuilt_cells"] = stacked([placement.cells for placement in placements])
        arrays["rebuilt_rotations"] = stacked([placement.rotations for placement in placements])
    return arrays
