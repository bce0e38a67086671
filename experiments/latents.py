"""Plot accuracy and PSNR against the number of latent dimensions, for plain and variational autoencoders.

    python experiments/latents.py

Reads ``results/embed/MODEL_LATENTS.json`` and writes ``figures/latents.png``. Bars are 95% intervals over test images;
dashed lines are the best published values, read off their plots.
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from fragrecon.report.figures.plotting import PALETTE, save

HERE = Path(__file__).resolve().parent
LATENTS = 32, 64, 128, 256
MODELS = {"conv": ("autoencoder", PALETTE[0], "o"), "vae": ("variational autoencoder", PALETTE[1], "s")}
PUBLISHED = {
    "reconstruction_psnr": {"conv": (19.7, 21.8, 24.4, 27.45), "vae": (19.6, 21.2, 22.0, 22.45)},
    "probe_mlp_accuracy": {"conv": (0.514, 0.528, 0.524, 0.535), "vae": (0.521, 0.532, 0.538, 0.539)},
}
"""Published values of the best of 80 epochs, read off plots."""
TITLES = {"reconstruction_psnr": "PSNR of reconstructions, dB", "probe_mlp_accuracy": "accuracy of an MLP"}


def main() -> None:
    figure = Figure(figsize=(8, 3.2), dpi=160, layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        for model, (name, colour, marker) in MODELS.items():
            results = [json.loads((HERE / "results" / "embed" / f"{model}_{d}.json").read_text()) for d in LATENTS]
            found = [result["scores"]["model"][metric] for result in results]
            means = [one["mean"] for one in found]
            halves = [(one["ci95"][1] - one["ci95"][0]) / 2 for one in found]
            axes.errorbar(LATENTS, means, halves, color=colour, marker=marker, markersize=4, capsize=2, label=name)
            axes.plot(LATENTS, PUBLISHED[metric][model], color=colour, linestyle="--", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(LATENTS, map(str, LATENTS))
        axes.set_xlabel("latents")
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    pixels = results[0]["scores"]["raw_pixels"]["probe_mlp_accuracy"]["mean"]
    axes.axhline(pixels, color="0.6", linewidth=0.8)
    axes.annotate("raw pixels", (LATENTS[0], pixels), (0, 3), textcoords="offset points", fontsize=7, color="0.4")
    figure.axes[0].plot([], [], color="0.4", linestyle="--", linewidth=0.8, label="as published, 80 epochs")
    figure.axes[0].legend(frameon=False, fontsize=7)
    save(figure, HERE / "figures" / "latents.png")


if __name__ == "__main__":
    main()
