from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score

from fragrecon.config.build import build
from fragrecon.data.readers import synthetic
from fragrecon.data.readers.synthetic import CLASSES, Synthetic
from fragrecon.data.store import Reader, Split
from fragrecon.errors import ConfigError

Images = npt.NDArray[np.uint8]
SPLITS: tuple[Split, ...] = ("train", "test")


def read(reader: Synthetic, split: Split = "train") -> tuple[Images, npt.NDArray[np.int64]]:
    blocks = list(reader.blocks(split))
    return np.concatenate([block.images for block in blocks]), np.concatenate([block.labels for block in blocks])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (17, 40), (96, 48)])
def test_blocks_hold_all_images_in_the_declared_shape(size: tuple[int, int], channels: int) -> None:
    reader = Synthetic(size, channels, train_images=45, test_images=7)
    for split, count in zip(SPLITS, (45, 7), strict=True):
        images, labels = read(reader, split)
        assert reader.source(split).images == count
        assert images.shape == (count, *reader.shape) == (count, channels, *size)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert len(labels) == count
        # Pictures, not flat fields or noise: they vary, and neighbouring pixels vary less.
        spread = images.astype(float).std((1, 2, 3))
        assert spread.min() > 3
        assert abs(np.diff(images.astype(float), axis=3)).mean() < spread.mean()


def test_an_image_depends_on_nothing_but_seed_split_and_index(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = read(Synthetic(train_images=70))
    longer, more_labels = read(Synthetic(train_images=90, test_images=3))
    assert (longer[:70] == images).all()
    assert (more_labels[:70] == labels).all()
    assert (Synthetic().draw("train", [68, 3, 31]) == images[[68, 3, 31]]).all()
    for pixels in (1, 7 * 64 * 64, 2**20):
        monkeypatch.setattr(synthetic, "BLOCK_PIXELS", pixels)
        assert (read(Synthetic(train_images=70))[0] == images).all()


def test_seeds_and_splits_draw_disjoint_images() -> None:
    parts = [
        read(Synthetic(train_images=60, test_images=60, seed=seed), split)[0] for seed in (0, 1) for split in SPLITS
    ]
    assert len(np.unique(np.concatenate(parts).reshape(240, -1), axis=0)) == 240
    for part in parts[1:]:  # not the same scene with other noise either
        pairs = zip(parts[0].reshape(60, -1), part.reshape(60, -1), strict=True)
        assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]) < 0.2


def test_gray_images_are_the_luma_of_the_coloured_ones() -> None:
    gray, coloured = Synthetic(channels=1).draw("test", range(10)), Synthetic().draw("test", range(10))
    luma = np.einsum("nchw,c->nhw", coloured.astype(float), [0.299, 0.587, 0.114])
    assert abs(gray[:, 0] - luma).mean() < 6


def test_every_size_shows_the_same_scene() -> None:
    small, large = Synthetic((32, 32)).draw("train", range(20)), Synthetic((64, 64)).draw("train", range(20))
    reduced = large.reshape(20, 3, 32, 2, 32, 2).astype(float).mean((3, 5))
    pairs = zip(small.reshape(20, -1), reduced.reshape(20, -1), strict=True)
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in pairs]) > 0.8


@pytest.mark.parametrize("num_classes", [1, 7, 10, 60])
def test_labels_cover_all_classes_in_balance(num_classes: int) -> None:
    reader = Synthetic((16, 16), train_images=2 * num_classes + 1, num_classes=num_classes)
    counts = np.bincount(read(reader)[1])
    classes = reader.source("train").classes
    assert classes is not None
    assert len(counts) == len(classes) == len(set(classes)) == num_classes
    assert counts.min() >= 2
    assert counts.max() <= 3


def test_class_names_are_all_combinations() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 60
    assert CLASSES[0] == "ellipses-grating-scattered"


def test_identity_changes_with_the_images() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"image_size": (32, 64)},
        {"channels": 1},
        {"train_images": 3},
        {"num_classes": 5},
        {"seed": 1},
    ]
    identities = [str(Synthetic(**variant).source("train").identity) for variant in variants]
    assert len(set(identities)) == len(variants)
    assert identities[0] == str(Synthetic().source("train").identity)


def test_invalid_arguments_are_refused() -> None:
    for arguments in ({"train_images": 0}, {"test_images": -5}, {"num_classes": 0}, {"num_classes": 61}, {"seed": -1}):
        (key,) = arguments
        with pytest.raises(ConfigError, match=rf"data\.reader\.{key}"):
            build({"_target_": "fragrecon.data.readers.synthetic.Synthetic", **arguments}, "data.reader", Reader)
    with pytest.raises(ConfigError, match=r"data\.image_size=\[15, 64\].*16"):
        Synthetic((15, 64))


def test_raw_fragments_cluster_as_those_of_photographs_do() -> None:
    """Photographs of 64x64 give an ARI of 0.15: raw pixels tell something of the source, and leave much to learn."""
    images = read(Synthetic(train_images=120))[0]
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(10), 16)
    scores = []
    for puzzle in range(12):
        chosen = images[rng.choice(len(images), 10, replace=False)]
        fragments = chosen.reshape(10, 3, 4, 16, 4, 16).transpose(0, 2, 4, 1, 3, 5).reshape(160, -1)
        clusters = KMeans(10, n_init=2, random_state=puzzle).fit_predict((fragments / 255).astype(np.float32))
        scores.append(adjusted_rand_score(truth, clusters))
    assert 0.1 < np.mean(scores) < 0.3


def test_seams_are_no_edges() -> None:
    """Across the borders of fragments the pictures change as little as anywhere, and opposite sides do not match."""
    images = read(Synthetic(train_images=100))[0].astype(float)
    steps = abs(np.diff(images, axis=3)).mean((0, 1, 2))
    borders = steps[15::16].mean()
    assert borders < 1.15 * steps.mean()
    assert abs(images[..., 0] - images[..., -1]).mean() > 2.5 * borders


def test_power_falls_off_with_frequency_as_in_photographs() -> None:
    images = Synthetic(channels=1).draw("train", range(100))[:, 0].astype(float)
    window = np.outer(np.hanning(64), np.hanning(64))
    power = (abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0)
    radius = np.hypot(np.fft.fftfreq(64)[:, None] * 64, np.fft.fftfreq(64) * 64).round()
    bands = np.arange(2, 28)
    slope = np.polyfit(np.log(bands), np.log([power[radius == band].mean() for band in bands]), 1)[0]
    assert -3.2 < slope < -1.8


def test_classes_are_learned_from_structure_and_not_from_colour() -> None:
    reader = Synthetic(train_images=500, test_images=250)
    (train, labels), (test, test_labels) = read(reader), read(reader, "test")

    def accuracy(features: Any) -> float:
        forest = RandomForestClassifier(50, random_state=0).fit(features(train), labels)
        return float(forest.score(features(test), test_labels))

    def structure(images: Images) -> npt.NDArray[np.float64]:
        gray = images.mean(1)
        gray = (gray - gray.mean((1, 2), keepdims=True)) / (gray.std((1, 2), keepdims=True) + 1)
        energy = np.hypot(*np.gradient(gray, axis=(1, 2)))
        cells = [plane.reshape(-1, 8, 8, 8, 8).mean((2, 4)).reshape(-1, 64) for plane in (gray, energy)]
        return np.concatenate(cells, 1)

    assert accuracy(structure) > 0.2
    assert accuracy(lambda images: images.mean((2, 3))) < 0.15
