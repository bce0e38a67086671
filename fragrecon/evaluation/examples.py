"""What a model makes of single puzzles, kept for people to look at.

Shapes: one puzzle of F fragments from N images, a leading 1 where batches have B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fragrecon.clustering import agreement
from fragrecon.clustering.balanced import assign
from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import FragmentBatch, in_place
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.base import Decoder, FragmentModel, Solver
from fragrecon.reassembly.clues import all_clues
from fragrecon.reassembly.rebuild import Placement, group, rebuild
from fragrecon.seeds import keys_of

COUNT = 8
"""Puzzles that a scored run keeps."""


@dataclass(frozen=True)
class Example:
    """A puzzle and what a model made of it, on the CPU.

    Attributes:
        batch: of this puzzle alone.
        grid: rows and columns of fragments in an image.
        embeddings: (1, F, D).
        groups: (1, F), as KMeans finds them in the embeddings.
        decoded: (1, F, C, h, w) in 0..1, what the model makes of its embeddings, if it decodes.
        placement: where each fragment went, if the model puts such puzzles together.
    """

    batch: FragmentBatch
    grid: tuple[int, int]
    embeddings: Tensor
    groups: Tensor
    decoded: Tensor | None = None
    placement: Placement | None = None

    @property
    def images(self) -> Tensor:
        """The images (N, C, H, W) that the fragments were cut from."""
        return self.in_place(self.batch.fragments)

    def in_place(self, fragments: Tensor) -> Tensor:
        """Images (N, C, H, W) of fragments (1, F, C, h, w), each where the puzzle's own was cut from."""
        return in_place(fragments, self.batch, self.grid)

    @property
    def confusion(self) -> Tensor:
        """Counts (N, N) of the fragments of image i in the group that is given to image j.

        Groups are given to images one to one, so that as many fragments as can be are on the diagonal.
        """
        n = self.batch.images_per_puzzle
        found = agreement.contingency(self.groups, self.batch.source_ids)[0]  # group, image
        table = torch.zeros(n, n, dtype=found.dtype)
        table[: found.shape[0], : found.shape[1]] = found  # KMeans finds fewer groups among fewer distinct embeddings
        image_of_group = assign(table.unsqueeze(0))[0]
        return table[torch.argsort(image_of_group)].T


@torch.inference_mode()
def example_of(
    model: FragmentModel, batch: FragmentBatch, grid: tuple[int, int], protocol: ClusteringProtocol
) -> Example:
    """What a model in eval mode makes of a batch of one puzzle, with fragments as float, on the model's device."""
    solution = model.solve(batch.fragments) if isinstance(model, Solver) and model.grid == grid else None
    embeddings = model.encode(batch.fragments) if solution is None else solution.embeddings
    decoded = model.decode(embeddings, batch.fragment_size).cpu() if isinstance(model, Decoder) else None
    placement = None
    if solution is not None:
        keys = keys_of(protocol.seed, "clustering", batch.step, len(batch))
        cells = grid[0] * grid[1]
        images = group(embeddings, batch.images_per_puzzle, cells, keys, protocol.restarts, protocol.memory)
        clues = all_clues(solution, batch.fragments, grid).cpu()
        placement = rebuild(clues, images.cpu(), grid, regroup=True, memory=protocol.memory)
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
    """`example_of` each of the first puzzles, up to ``most``; one after the other, so that each is always the same."""
    parts = (slice(number, number + 1) for number in range(min(most, len(puzzles))))
    return [example_of(model, puzzles.read(part).to(device).as_float(), grid, protocol) for part in parts]


def arrays_of(examples: Sequence[Example]) -> dict[str, npt.NDArray[Any]]:
    """What `fragrecon.runs.write.Record.write_examples` keeps of examples that are alike in shape."""

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
    return arrays
