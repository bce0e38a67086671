"""Learn to compare the sides of whole, noisy and eroded pieces, and measure it beside Gallagher's compatibility.

    python experiments/jigsaw_edges.py FOLDER

FOLDER is that of ``experiments/jigsaw.py``. The puzzles are 10x10 pieces of 50 pixels from the photographs of MIT and
McGill; the networks are trained on the photographs of ``bsds/`` alone. For each condition (`CONDITIONS`), three models
are fitted in the same way: a slope for `gradients`, slopes for the classical compatibilities, and a small network. The
network sees distances of the strips next to both sides: of colours averaged to several depths and along the seam, of
what continues them across the gap, at several shifts along the seam, of textures; and for each, how much better it is
than the best other partner of either side. Writes ``results/jigsaw/edges.json``.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import jigsaw as puzzles
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fragrecon import files
from fragrecon.data.photographs import read_whole
from fragrecon.jigsaw.assemble import assemble
from fragrecon.jigsaw.compatibility import gradient_changes, gradients, prediction, sum_of_squares
from fragrecon.jigsaw.evidence import LEAST, log_odds
from fragrecon.jigsaw.forest import EMPTY
from fragrecon.jigsaw.metrics import neighbours, score
from fragrecon.jigsaw.pieces import cut, erode
from fragrecon.runs.write import versions
from fragrecon.seams import strips

CONDITIONS = {"eroded_2": (2, 0.0), "eroded_5": (5, 0.0), "whole": (0, 0.0), "noisy": (0, 10.0)}
"""Pixels off every side of a piece, and standard deviation of Gaussian noise in 0..255."""
SIZE, GRID, DEPTH = 50, (10, 10), 16
CLASSICAL = (gradients, gradient_changes, prediction, sum_of_squares)
MODELS = {"gradients": slice(0, 1), "classical": slice(0, 3), "learned": slice(None)}
"""Features that each model sees; the first are those of `CLASSICAL`."""
STEPS, HIDDEN = 1500, 32
FLOOR = 0.5
"""Added to mean squared differences before their logarithm."""

Sample = tuple[Tensor, Tensor]
"""Features (K, 2, n, n) of all pairs of pieces, to the right and below, and the true neighbours (2, n) or `EMPTY`."""


def smooth(values: Tensor, width: int) -> Tensor:
    """Average values (n, L, C) along the seam."""
    padded = F.pad(values.mT, (width // 2, width // 2), mode="replicate")
    return F.avg_pool1d(padded, width, 1).mT


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return logarithms (n, n) of the mean squared differences of all pairs of rows (n, ...)."""
    one, other = one.flatten(1), other.flatten(1)
    squares = one.square().sum(1).unsqueeze(1) + other.square().sum(1) - 2 * one @ other.mT
    return (squares.clamp(min=0) / one.shape[1] + FLOOR).log()


def compare(one: Tensor, other: Tensor, pixels: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return distances (n, n) across a gap, and what is known of each side (n, n), of strips (n, L, C, depth)."""
    gap, length = 2 * pixels + 1, one.shape[1]
    found = []
    for depth, width in ((1, 1), (1, 5), (3, 3), (3, 11), (8, 21)):
        found.append(distance(*(smooth(side[..., :depth].mean(-1), width) for side in (one, other))))
    for depth, width, damping in ((2, 1, 1.0), (4, 3, 1.0), (8, 5, 0.5)):  # continued across the gap
        half = depth // 2
        edges = [side[..., :half].mean(-1) for side in (one, other)]
        slopes = [
            damping * (edge - side[..., half:depth].mean(-1)) / half
            for edge, side in zip(edges, (one, other), strict=True)
        ]
        across = gap + half - 1
        for own, others in ((across / 2, across / 2), (across, 0), (0, across)):
            continued = [edges[0] + own * slopes[0], edges[1] + others * slopes[1]]
            found.append(distance(*(smooth(end, width) for end in continued)))
    for depth, width, step in ((2, 3, 1), (4, 5, 3)):  # changes along the seam
        lines = [smooth(side[..., :depth].mean(-1), width) for side in (one, other)]
        found.append(distance(*(line[:, step:] - line[:, :-step] for line in lines)))
    for width, most in ((1, 2), (3, 2), (3, 4), (5, 8)):  # the best of several shifts along the seam
        first, second = (smooth(side[..., 0], width) for side in (one, other))
        shifts = range(-(most // 2), most // 2 + 1)
        ends = [(first[:, most + by : length - most + by], second[:, most - by : length - most - by]) for by in shifts]
        found.append(torch.stack([distance(*pair) for pair in ends]).amin(0))
    first, second = (smooth(side[..., :2].mean(-1), 3) for side in (one, other))
    found.append((torch.cdist(first.flatten(1), second.flatten(1), 1) / first[0].numel() + FLOOR).log())
    first, second = (smooth(side[..., 0], 3) for side in (one, other))
    best = torch.full((len(one), len(other), length), torch.inf)  # the best shift at each position of its own
    for shift in range(-3 - pixels, 4 + pixels):
        best = torch.minimum(best, (first.unsqueeze(1) - second.roll(shift, 1)).square().sum(-1))
    found += [(best.mean(-1) + FLOOR).log(), (best + FLOOR).log().mean(-1)]
    for depth in (4, DEPTH):
        textures = [torch.cat([s[..., :depth].mean((1, 3)), s[..., :depth].std((1, 3))], 1) for s in (one, other)]
        found.append(distance(*textures))
    rough = [(side.diff(dim=1).square().mean((1, 3)) + FLOOR).log() for side in (one, other)]
    found.append(distance(*rough))
    known = []
    for side in (one, other):
        changes = [smooth(side[..., 0], w) - smooth(side[..., min(gap, DEPTH - 1)], w) for w in (1, 5)]
        alone = [*(change.square().mean((1, 2)) for change in changes), side.var((1, 3)).mean(1)]
        known += [(values + FLOOR).log().unsqueeze(1 if side is one else 0).expand_as(found[0]) for values in alone]
    return found, known


def gains(values: Tensor, axis: int) -> Tensor:
    """Return by how much values (..., n, n) exceed the best other ones along an axis."""
    best = values.topk(2, axis).values
    first, second = best.narrow(axis, 0, 1), best.narrow(axis, 1, 1)
    return values - torch.where(values >= first, second, first)


def features(pieces: Tensor, pixels: int) -> Tensor:
    """Return features (K, 2, n, n) of pieces (n, C, h, w) in 0..255 to the right of and below others."""
    values = pieces.shape[1] * pieces.shape[2]
    classical = [-(function(pieces, False)[:2] / values + LEAST).log().clamp(max=20) for function in CLASSICAL]
    sides = [strip[0] for strip in strips(pieces.unsqueeze(0), DEPTH)]
    ways = [compare(sides[side], sides[side + 2].flip(1), pixels) for side in (0, 1)]
    pairs = torch.cat([torch.stack(classical), torch.stack([-torch.stack(found) for found, _ in ways], 1)])
    known = torch.stack([torch.stack(own) for _, own in ways], 1)
    itself = torch.eye(len(pieces), dtype=torch.bool)
    others = pairs.masked_fill(itself, -30.0)
    return torch.cat([pairs, known, gains(others, -1), gains(others, -2)]).masked_fill(itself, 0.0)


def in_condition(pieces: Tensor, condition: str, seed: int) -> Tensor:
    """Return pieces (n, C, h, w) in 0..255 of a condition."""
    pixels, noise = CONDITIONS[condition]
    kept = erode(pieces, pixels).float()
    return (kept + noise * torch.randn(kept.shape, generator=torch.Generator().manual_seed(seed))).round().clamp(0, 255)


def training_samples(folder: Path, condition: str) -> list[Sample]:
    """Return a puzzle of every photograph of ``bsds``, rotated by quarter turns at random."""
    found = []
    for number, path in enumerate(sorted((folder / "bsds").iterdir())):
        image = torch.rot90(read_whole([path])[0], number % 4, (1, 2))
        jigsaw = cut([image], (SIZE, SIZE))
        assert jigsaw.truth is not None
        wanted = torch.from_numpy(neighbours(jigsaw.truth))[:2]
        found.append(
            (features(in_condition(jigsaw.pieces, condition, number), CONDITIONS[condition][0]).half(), wanted)
        )
    return found


class Model(nn.Module):
    """Scores of pairs from some of their features, normalised."""

    def __init__(self, seen: slice, samples: list[Sample]) -> None:
        super().__init__()
        self.seen = seen
        sample = torch.cat([found[seen].float().flatten(1)[:, ::7] for found, _ in samples], 1)
        self.mean, self.scale = sample.mean(1), sample.std(1) + 1e-3
        count = len(self.mean)
        layers = [nn.Linear(count, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)]
        self.layers = nn.Sequential(*layers) if count > len(CLASSICAL) else nn.Linear(count, 1)

    def forward(self, found: Tensor) -> Tensor:
        """Return scores (2, n, n), minus infinity for a piece and itself, from features (K, 2, n, n)."""
        normal = (found[self.seen].float().movedim(0, -1) - self.mean) / self.scale
        itself = torch.eye(found.shape[-1], dtype=torch.bool)
        scores: Tensor = self.layers(normal).squeeze(-1).masked_fill(itself, -torch.inf)
        return scores


def fit(name: str, samples: list[Sample]) -> Model:
    """Fit a model by the cross-entropy of the true neighbour among all pieces, from either side."""
    torch.manual_seed(0)
    model, order = Model(MODELS[name], samples), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    for _ in range(STEPS):
        found, wanted = order.choice(samples)
        losses = []
        for scores, partners in zip(model(found), wanted, strict=True):
            there = torch.nonzero(partners != EMPTY)[:, 0]
            losses.append(F.cross_entropy(scores[there], partners[there]))
            losses.append(F.cross_entropy(scores.mT[partners[there]], there))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model


def measure(folder: Path, condition: str) -> dict[str, Any]:
    """Fit all models for a condition, and score them on all puzzles."""
    began = time.process_time()
    samples = training_samples(folder, condition)
    found: dict[str, Any] = {"seconds": {"features": time.process_time() - began}, "rank_one": {}, "assembled": {}}
    cases = []
    with torch.inference_mode():
        for number, (_, jigsaw, arguments) in enumerate(puzzles.puzzles(folder, "eroded_0")):
            assert jigsaw.truth is not None
            pieces = in_condition(jigsaw.pieces, condition, number)
            cases.append((features(pieces, CONDITIONS[condition][0]), jigsaw.truth, arguments["grids"]))
    for name in MODELS:
        began = time.process_time()
        model = fit(name, samples)
        found["seconds"][name] = time.process_time() - began
        right, sides, scores = 0, 0, []
        for pairs, truth, grids in cases:
            with torch.inference_mode():
                table = model(pairs)
            table = torch.cat([table, table.mT])  # right, below, left, above
            wanted = torch.from_numpy(neighbours(truth))
            right, sides = right + int((table.argmax(-1) == wanted).sum()), sides + int((wanted != EMPTY).sum())
            if CONDITIONS[condition][0]:
                scores.append(score(assemble(log_odds(table).numpy(), grids)[0], truth, False))
        found["rank_one"][name] = right / sides
        if scores:
            found["assembled"][name] = {key: float(np.mean([row[key] for row in scores])) for key in scores[0]}
        print(condition, name, found["rank_one"][name], found["assembled"].get(name, {}), flush=True)
    return found


def main(folder: Path) -> None:
    """Measure all conditions."""
    found = {condition: measure(folder, condition) for condition in CONDITIONS}
    count = sum(len(list((folder / name).iterdir())) for name in puzzles.SETS)
    result = {"puzzles": count, "conditions": found, "threads": torch.get_num_threads(), "versions": versions()}
    files.write_json(puzzles.RESULTS / "edges.json", result)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python experiments/jigsaw_edges.py FOLDER")
    main(Path(sys.argv[1]))
