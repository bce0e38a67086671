"""Write an assembled jigsaw puzzle: pictures, tables and a page.

Files in the folder of the job: ``images/`` (the assembled images at full size), ``placement.json`` (place, rotation and
probability of each piece, and scores if the truth is known), ``neighbours.csv`` (likeliest neighbours of each side),
``figures/`` (the shuffled pieces, their images by colour, and the assembled images with doubtful pieces framed) and
``report.html``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fragrecon import files
from fragrecon.jigsaw.metrics import score
from fragrecon.jigsaw.pieces import Jigsaw, join, looks
from fragrecon.jigsaw.solve import Assembly
from fragrecon.report.figures import tiles
from fragrecon.report.figures.jigsaw import DOUBTFUL, groups_of_pieces, mark_doubtful, shuffled_pieces
from fragrecon.report.page import write_jigsaw_page
from fragrecon.report.terminal import rebuilt_text, say
from fragrecon.runs.write import FIGURES, PAGE
from fragrecon.seams import SIDES


def write_assembly(
    jigsaw: Jigsaw, solved: Assembly, rotations: bool, names: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Write all files, and print the outcome.

    Args:
        jigsaw: the puzzle.
        solved: its assembly.
        rotations: whether the orientation of the pieces was unknown.
        names: names of the files: of the photographs if the truth is known, else of the pieces.
        folder: folder to write to.

    Returns:
        The contents of ``placement.json``.
    """
    pieces, found = jigsaw.pieces, solved.arrangement
    result = describe_assembly(jigsaw, solved, rotations, names)
    width = len(str(len(found.grids) - 1))
    for number, image in enumerate(join(pieces, found, tiles.PAPER)):
        name = f"{number:0{width}d}"
        tiles.save(image, folder / "images" / f"{name}.png")
        tiles.save(
            mark_doubtful(image, number, pieces, found, solved.confidences), folder / FIGURES / f"rebuilt_{name}.png"
        )
    tiles.save(shuffled_pieces(pieces), folder / FIGURES / "shuffled.png")
    tiles.save(groups_of_pieces(pieces, found), folder / FIGURES / "groups.png")
    files.write_csv(folder / "neighbours.csv", likely_neighbours(solved))
    files.write_json(folder / "placement.json", result)
    write_jigsaw_page(folder / PAGE, result, folder)
    _print(result, folder)
    return result


def describe_assembly(jigsaw: Jigsaw, solved: Assembly, rotations: bool, names: Sequence[str]) -> dict[str, Any]:
    """Return the size and confidence of each image, the place of each piece, and scores if the truth is known.

    Rotations are counterclockwise, in degrees; ``rotation`` is by how much a piece was found to be rotated.
    """
    found, truth, rows = solved.arrangement, jigsaw.truth, []
    for number in range(len(jigsaw.pieces)):
        row: dict[str, Any] = {"piece": number}
        if truth is None:
            row["file"] = names[number]
        else:
            row["file"] = names[truth.images[number]]
            row["cut_from"] = [int(truth.rows[number]), int(truth.columns[number])]
            row["rotated"] = 90 * int(truth.rotations[number])
        row |= {"image": int(found.images[number]), "cell": [int(found.rows[number]), int(found.columns[number])]}
        confidence = round(float(solved.confidences[number]), 6)
        rows.append(row | {"rotation": 90 * int(found.rotations[number]), "confidence": confidence})
    images = []
    for number, grid in enumerate(found.grids):
        own = solved.confidences[found.images == number]
        doubtful = int((own < DOUBTFUL).sum())
        confidence = round(float(own.mean()), 6) if len(own) else 0.0
        images.append({"grid": list(grid), "pieces": len(own), "confidence": confidence, "doubtful": doubtful})
    result: dict[str, Any] = {"piece_size": list(jigsaw.pieces.shape[-2:]), "images": images, "pieces": rows}
    if truth is not None:
        result["scores"] = score(found, truth, rotations)
        result["scores_up_to_equal_pieces"] = score(found, truth, rotations, looks(jigsaw.pieces, rotations))
    return result


def likely_neighbours(solved: Assembly) -> list[dict[str, Any]]:
    """Return a row per side of each piece: its likeliest neighbours, their sides, and probabilities."""
    count, rows = len(solved.confidences), []
    for piece in range(count):
        for number, side in enumerate(SIDES):
            row: dict[str, Any] = {"piece": piece, "side": side}
            for place, other in enumerate(solved.neighbours[number, piece].tolist()):
                row[f"neighbour_{place + 1}"], row[f"side_{place + 1}"] = other % count, SIDES[other // count]
                row[f"probability_{place + 1}"] = f"{solved.probabilities[number, piece, place]:.4f}"
            rows.append(row)
    return rows


def _print(result: dict[str, Any], folder: Path) -> None:
    sizes = ", ".join("x".join(map(str, image["grid"])) for image in result["images"])
    count = len(result["images"])
    line = f"{len(result['pieces'])} pieces were assembled to {count} image{'s' * (count != 1)} ({sizes} pieces)"
    if scores := result.get("scores"):
        line += rebuilt_text(scores)
    say(line)
    doubtful = int(np.sum([image["doubtful"] for image in result["images"]]))
    say(f"doubtful pieces, of a probability below {DOUBTFUL}: {doubtful}")
    say(f"page: {folder / PAGE}, each image: {folder / 'images'}")
    say(f"record: {folder}")
