# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which fragments belong together?
#
# A trained model, on the CPU alone: how well its embeddings group the fragments of held-out images, beside chance and
# beside raw pixels, and what that looks like.
#
# This page is a script. To read and run it as a notebook, in the folder it lies in:
#
#     pip install jupytext jupyterlab
#     jupytext --to ipynb fragment_inference.py
#     FRAGRECON_RUN=outputs/2026-01-31/12-00-00-000000-train-conv jupyter lab fragment_inference.ipynb
#
# `FRAGRECON_RUN` is the folder of a run, wherever it lies. Without one, a small model is trained here first, on images
# that are drawn on the spot; that takes some seconds.

# %%
import io
import os
import tempfile
from pathlib import Path

import torch
from IPython.display import Image, display
from matplotlib.figure import Figure

from fragrecon import load_run
from fragrecon.evaluation.clustering.baselines import raw_pixels
from fragrecon.evaluation.clustering.protocol import evaluate
from fragrecon.evaluation.examples import example_of
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.evaluation.statistics import summary
from fragrecon.report.figures.clustering import embedding_figure, puzzle_figure
from fragrecon.trainer import FragmentAutoencoderTrainer

RUN = os.environ.get("FRAGRECON_RUN", "")
PUZZLES = 50  # of the test puzzles; the more, the tighter the intervals
SAMPLE = 0  # number of the puzzle that is drawn

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch looks at it when it is first asked for a GPU
assert not torch.cuda.is_available()

# %% [markdown]
# ## The run
#
# `load_run` opens a run's folder. `run.config` is what it was told, `run.metrics` are its scores, `run.model` is the
# model with its best weights. Where its data have moved: `run.config.data.root = "FOLDER"`.

# %%
if not RUN:
    RUN = str(Path(tempfile.mkdtemp()) / "run")
    FragmentAutoencoderTrainer(
        model_type="pca",
        data="synthetic",
        epochs=3,
        folder=RUN,
        overrides=["data.reader.train_images=1000", "data.reader.test_images=200", f"evaluation.puzzles={PUZZLES}"],
    ).train()

run = load_run(RUN)
model = run.model
parameters = sum(parameter.numel() for parameter in model.parameters())
print(f"run: {run.folder}")
print(f"{type(model).__name__}, {parameters:,} parameters, embeds a fragment as {model.latent_dim} numbers on the CPU")

# %% [markdown]
# ## Scores on some test puzzles
#
# Each puzzle holds the shuffled fragments of several images, mostly ten. Their embeddings are clustered by KMeans, the
# number of images being known, and the clusters compared with the truth: adjusted Rand index (0 is chance, 1 perfect),
# normalised mutual information, purity. Behind ± is half of the mean's 95% interval. `run.evaluate("my_images")` scores
# on images of your own.

# %%
data, protocol = open_data(run.config), protocol_of(run.config)
puzzles = data.test_set(PUZZLES)
baselines = evaluate(
    puzzles,
    {
        "random": protocol.score_random,
        "raw pixels": lambda batch: protocol.score(raw_pixels(batch), batch),
    },
    batch_size=run.config.evaluation.batch_size,
    device=torch.device("cpu"),
)
scores = {name: {metric: summary(values) for metric, values in found.items()} for name, found in baselines.items()}
scores["model"] = run.evaluate(puzzles=PUZZLES)

METRICS = {"ARI": "kmeans_ari", "NMI": "kmeans_nmi", "purity": "kmeans_purity"}
print(f"{'':<12}" + "".join(f"{name:>18}" for name in METRICS))
for method, found in scores.items():
    cells = [found[metric] for metric in METRICS.values()]
    print(f"{method:<12}" + "".join(f"{c['mean']:>9.4f} ± {c['ci95'][1] - c['mean']:.4f}" for c in cells))

# %% [markdown]
# ## The clusters of one puzzle
#
# Left the fragments as the model gets them, then the images they were cut from, then a row for each cluster, named
# after the image that most of it comes from; a letter marks a fragment of another one.

# %%
batch = puzzles.read(slice(SAMPLE, SAMPLE + 1)).as_float()
example = example_of(model, batch, data.grid, protocol)


def show(figure: Figure) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    display(Image(png.getvalue()))


show(puzzle_figure(example, f"grouped by KMeans on {type(model).__name__}"))

# %% [markdown]
# The same fragments laid out by t-SNE: where a model does well, fragments of an image lie side by side.

# %%
show(embedding_figure(example))

# %% [markdown]
# ## Embeddings of anything
#
# `run.embed` takes images, fragments or whole puzzles as arrays, uint8 or floats in 0..1, and gives an array back.
# `python -m fragrecon.run mode=embed run=FOLDER` writes the embeddings of a split to a file.

# %%
embeddings = run.embed(example.images)
print(f"{tuple(example.images.shape)} -> {embeddings.shape}: images x fragments x numbers")
