"""Predict the next crop of a photograph along a track, by an LSTM on the latents of an autoencoder.

    python experiments/crops.py FOLDER 201 201
    python -m fragrecon.run experiment=crops model=cnn_v3_tiny data.root=FOLDER hydra.run.dir=RUN
    python experiments/next_latent.py RUN

A crop moves over a photograph at constant speed. The model of the run encodes each crop; from all latents so far the
LSTM predicts the next. It is compared with repeating the last latents, on photographs that neither the model nor the
LSTM was trained on. Writes ``figures/next_latent.png`` beside this script, or to --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import crops
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import track
from scipy.stats import bootstrap
from torch import Tensor, nn

from fragrecon.models.base import Decoder, FragmentModel
from fragrecon.objectives.reconstruction import psnr
from fragrecon.report.figures.plotting import save
from fragrecon.runs.read import load_run

PACE = 3.0, 12.0
"""Least and greatest pixels that a crop moves in a step."""


class NextLatent(nn.Module):
    """Predict latents from earlier ones, as the last plus a change, by an LSTM (Hochreiter and Schmidhuber, 1997).

    Args:
        latents: dimensions D of the latents.
        width: dimensions of the LSTM's state.
    """

    def __init__(self, latents: int, width: int = 256) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * latents, width, batch_first=True)
        self.change = nn.Linear(width + latents, latents)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, seen: Tensor) -> Tensor:
        """Return the latents predicted after each step of tracks (S, T, D), of the same shape."""
        step = seen - torch.cat([seen[:, :1], seen[:, :-1]], 1)
        state, _ = self.lstm(torch.cat([seen, step], 2))
        predicted: Tensor = seen + self.change(torch.cat([state, step], 2))
        return predicted


def tracks(part: str, count: int, length: int, size: tuple[int, int], seed: int) -> Tensor:
    """Return crops (S, T, 1, H, W) in [0, 1]; a track moves over one photograph at constant velocity."""
    drawn, shown = np.random.default_rng(seed), []
    photographs = [np.asarray(crops.photograph(name)) for name in crops.PARTS[part]]
    room = [np.array(image.shape) - size for image in photographs]
    wide = [index for index, free in enumerate(room) if free.min() > 0 and free.max() > PACE[1] * length]
    for number in range(count):
        image, free = photographs[wide[number % len(wide)]], room[wide[number % len(wide)]]
        while True:
            angle, pace = drawn.uniform(0, 2 * np.pi), drawn.uniform(*PACE)
            step = pace * np.array([np.sin(angle), np.cos(angle)])
            places = (drawn.uniform(0, free + 1) + np.arange(length)[:, None] * step).astype(int)
            if (places >= 0).all() and (places <= free).all():
                break
        shown.append(np.stack([image[y : y + size[0], x : x + size[1]] for y, x in places]))
    return torch.from_numpy(np.stack(shown)).unsqueeze(2) / 255


@torch.inference_mode()
def embedded(model: FragmentModel, shown: Tensor) -> Tensor:
    """Return latents (S, T, D) of crops (S, T, C, H, W)."""
    return torch.cat([model.encode(part) for part in track(torch.split(shown, 4), "embedding")]).clone()


def fitted(latents: Tensor, steps: int, seed: int) -> NextLatent:
    """Train on tracks of latents (S, T, D), in batches of 32."""
    torch.manual_seed(seed)
    network = NextLatent(latents.shape[2])
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), "learning"):
        some = latents[torch.randint(len(latents), (32,))]
        some = some.flip(1) if torch.rand(()) < 0.5 else some  # a crop that moves back is as likely
        loss = (network(some[:, :-1]) - some[:, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="of a model that decodes grey images")
    parser.add_argument("--tracks", type=int, default=800, help="to learn from")
    parser.add_argument("--length", type=int, default=10, help="crops a track")
    parser.add_argument("--steps", type=int, default=1500, help="of the LSTM's optimizer")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures" / "next_latent.png")
    given = parser.parse_args()

    run = load_run(given.run)
    model, (channels, *size) = run.load_model(), run.config.data.fragment_shape
    if not isinstance(model, Decoder) or channels != 1:
        parser.error(f"{given.run} is not of a model that decodes grey images")
    train = embedded(model, tracks("train", given.tracks, given.length, (size[0], size[1]), 0))
    shown = tracks("test", 48, given.length, (size[0], size[1]), 1)
    test = embedded(model, shown)
    mean, scale = train.mean((0, 1)), train.std()  # one scale, so that small latents stay small
    network = fitted((train - mean) / scale, given.steps, 0)

    with torch.inference_mode():
        predicted = network((test[:, :-1] - mean) / scale) * scale + mean
        errors = {
            "LSTM": (predicted - test[:, 1:]).square().mean(2)[:, 1:].mean(1),  # after two crops at least
            "last latents": (test[:, :-1] - test[:, 1:]).square().mean(2)[:, 1:].mean(1),
        }
        pictures = {
            "next crop": shown[:, 1:],
            "its own latents": model.decode(test[:, 1:]),
            "LSTM": model.decode(predicted),
            "last latents": model.decode(test[:, :-1]),
        }
    ratio = (errors["LSTM"].mean() / errors["last latents"].mean()).item()
    interval = bootstrap(
        [errors["LSTM"].numpy(), errors["last latents"].numpy()],
        lambda ours, theirs, axis: ours.mean(axis) / theirs.mean(axis),
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    print(f"{len(test)} tracks of {given.length} crops over photographs that were not trained on")
    print(f"error of predicted latents over that of the last: {ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})")
    for name in list(pictures)[1:]:
        found = psnr((pictures[name].clamp(0, 1) - shown[:, 1:]).square().mean((2, 3, 4))[:, 1:]).mean()
        print(f"PSNR of the next crop by {name}: {found:.2f} dB")
    draw(pictures, given.out)


def draw(pictures: dict[str, Tensor], path: Path) -> None:
    """Draw the last crops of two tracks over different photographs, with their predictions."""
    rows = 2
    figure = Figure(figsize=(2 * len(pictures), 2.1 * rows), dpi=120, layout="constrained")
    panels = figure.subplots(rows, len(pictures), squeeze=False)
    for column, (name, shown) in enumerate(pictures.items()):
        for row in range(rows):
            panels[row, column].imshow(shown[-1 - row, -1, 0], cmap="gray", vmin=0, vmax=1)
            panels[row, column].set_axis_off()
        panels[0, column].set_title(name, fontsize=9)
    save(figure, path)


if __name__ == "__main__":
    main()
