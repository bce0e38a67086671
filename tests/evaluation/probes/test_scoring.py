"""Classifiers of a model's embeddings: which images they see, what is kept, and what is left with the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import classification_report
from torch import Tensor, nn

from fragrecon import files
from fragrecon.config.evaluation import PROBES, ProbeConfig
from fragrecon.data.module import FragmentData
from fragrecon.data.readers.cifar import Cifar10
from fragrecon.data.store import Block, Source, Split
from fragrecon.errors import ConfigError, DataError, TrainingError
from fragrecon.evaluation.components import components_of_parts
from fragrecon.evaluation.probes import scoring as module
from fragrecon.evaluation.probes.embeddings import WholeImages
from fragrecon.evaluation.probes.network import load_probe
from fragrecon.evaluation.probes.scoring import ProbeResults, Probing, class_table, write_tables
from fragrecon.models.base import FragmentModel
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.mosaic import Mosaic
from tests import layouts
from tests.evaluation.samples import CPU, config_of

CLASSES = ("dark", "middle", "bright")
CONFIG = ProbeConfig(
    classifiers=["mlp", "linear", "knn"],
    hidden=[16],
    epochs=4,
    batch_size=16,
    lr=0.01,
    neighbours=[1, 5],
    strengths=[0.1, 1.0],
    images=None,
    svm_images=100,
    projections=[],
)
SETTINGS = {"_target_": "somewhere.Means", "width": 2}


Relabel = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]


class Shades:
    """A reader of images that are brighter the higher their class, which come class after class.

    Args:
        train: images.
        test: images.
        seed: of the pixels.
        relabel: what becomes of the labels of a split.
    """

    shape = (1, 8, 8)

    def __init__(
        self, train: int = 150, test: int = 60, seed: int = 0, relabel: dict[str, Relabel] | None = None
    ) -> None:
        self.counts, self.seed, self.relabel = {"train": train, "test": test}, seed, relabel or {}

    def source(self, split: Split) -> Source:
        labels = {name: change(np.arange(9)).tolist() for name, change in self.relabel.items()}
        identity = {"split": split, "seed": self.seed, "labels": labels, **self.counts}
        return Source(identity, self.counts[split], CLASSES)

    def blocks(self, split: Split) -> Iterator[Block]:
        count = self.counts[split]
        random = np.random.default_rng([self.seed, split == "test"])
        labels = np.arange(count) * len(CLASSES) // count
        level = 60 + 50 * labels.reshape(-1, 1, 1, 1) + random.normal(size=(count, 1, 1, 1)) * 25
        pixels = level + random.normal(size=(count, *self.shape)) * 10
        told = self.relabel[split](labels) if split in self.relabel else labels
        yield Block(pixels.clip(0, 255).astype(np.uint8), told)


class Means(FragmentModel):
    """A model whose embeddings are known: how bright a fragment is, and how bright its left column.

    Attributes:
        seen: shapes of what was encoded.
    """

    def __init__(self, fragment_shape: tuple[int, int, int] = (1, 8, 8)) -> None:
        super().__init__(fragment_shape, 2)
        self.seen: list[tuple[int, ...]] = []
        self.dropout = nn.Dropout(0.5)

    def encode(self, fragments: Tensor) -> Tensor:
        self.seen.append(tuple(fragments.shape))
        assert not torch.is_grad_enabled()
        values = torch.stack([fragments.mean((2, 3, 4)), fragments[..., 0].mean((2, 3))], -1)
        dropped: Tensor = self.dropout(values)
        return dropped


def data_of(cache: Path, reader: Any = None, fragment_size: int = 8, seed: int = 0) -> FragmentData:
    reader = reader or Shades()
    config = config_of(reader, cache, fragment_size=fragment_size, images_per_puzzle=1)
    return FragmentData(config, reader, seed=0, puzzle_seed=seed, validation_puzzles=2)


def probing_of(data: FragmentData, *classifiers: Any, **changes: Any) -> Probing:
    config = replace(CONFIG, classifiers=list(classifiers) or CONFIG.classifiers, **changes)
    return Probing(config, data, at_once=16, device=CPU)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# Which images ---------------------------------------------------------------------------------------------------------


def test_every_image_is_embedded_once_in_the_part_it_belongs_to(cache: Path, checkpoint: Path) -> None:
    data, done = data_of(cache), list[int]()
    probing, model = probing_of(data), Means().eval()
    found = probing.images.by_model(model, checkpoint, SETTINGS, done.append)
    stores = {"training": data.store("train"), "validation": data.store("train"), "test": data.store("test")}
    for part, store in stores.items():
        ids, samples = probing.images.ids[part], getattr(found, part)
        pixels = store.images[ids].astype(np.float64) / 255
        expected = np.stack([pixels.mean((1, 2, 3)), pixels[..., 0].mean((1, 2))], 1)
        np.testing.assert_allclose(samples.embeddings, expected, atol=1e-6)
        np.testing.assert_array_equal(samples.labels, store.labels[ids])
        assert samples.embeddings.dtype == torch.float32
        assert not samples.embeddings.is_inference()
    assert sorted(probing.images.ids["training"]) == data.training_images().tolist()
    assert probing.images.ids["validation"].tolist() == data.validation_images().tolist()
    assert probing.images.ids["test"].tolist() == list(range(60))
    assert sum(done) == len(probing.images) == 210
    assert {shape[1:] for shape in model.seen} == {(1, 1, 8, 8)}
    assert max(shape[0] for shape in model.seen) == 16


def test_the_first_training_images_are_a_sample_of_all_classes(cache: Path) -> None:
    data = data_of(cache, Shades(train=300))
    every, some = probing_of(data).images, probing_of(data, images=30).images
    assert some.ids["training"].tolist() == every.ids["training"][:30].tolist()
    counts = torch.bincount(some.labels["training"], minlength=3)
    assert counts.min() >= 4
    other = WholeImages(data_of(cache, Shades(train=300), seed=1), 30, at_once=9, device=CPU)
    assert other.ids["training"].tolist() != some.ids["training"].tolist()


def test_an_image_that_is_cut_is_the_mean_of_its_fragments(cache: Path, checkpoint: Path) -> None:
    data = data_of(cache, fragment_size=4)
    probing, model = probing_of(data), Means((1, 4, 4)).eval()
    found = probing.images.by_model(model, checkpoint, SETTINGS)
    assert {shape[1:] for shape in model.seen} == {(4, 1, 4, 4)}
    for image, embedding in zip(data.store("test").images, found.test.embeddings, strict=True):
        parts = [image[0, y : y + 4, x : x + 4].astype(np.float64) / 255 for y in (0, 4) for x in (0, 4)]
        expected = np.mean([[part.mean(), part[:, 0].mean()] for part in parts], 0)
        np.testing.assert_allclose(embedding, expected, atol=1e-6)
    assert probing.averaged == "mean of 4 fragments"
    assert probing.protocol == {
        "probe_training_images": 142,
        "probe_validation_images": 8,
        "probe_test_images": 60,
        "probe_embedding": "mean of 4 fragments",
    }
    whole = probing_of(data_of(cache))
    assert (whole.averaged, whole.protocol["probe_embedding"]) == ("", "whole image")


def test_fragments_of_one_image_alone_make_its_puzzle(cache: Path, checkpoint: Path) -> None:
    torch.manual_seed(0)
    model = Mosaic((1, 4, 4), (2, 2), latent_dim=8, width=16, depth=1, heads=2, window=4).eval()
    data = data_of(cache, fragment_size=4)
    found = probing_of(data).images.by_model(model, checkpoint, SETTINGS)
    with torch.inference_mode():
        for i in (0, 31, 59):
            image = torch.from_numpy(data.store("test").images[[i]][0]).float() / 255
            parts = torch.stack([image[:, y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)])
            torch.testing.assert_close(found.test.embeddings[i], model.encode(parts[None])[0].mean(0))


def test_embeddings_that_are_no_numbers_are_refused(cache: Path, checkpoint: Path) -> None:
    class Broken(Means):
        def encode(self, fragments: Tensor) -> Tensor:
            return super().encode(fragments) / 0

    with pytest.raises(TrainingError, match="not finite"):
        probing_of(data_of(cache)).images.by_model(Broken().eval(), checkpoint, SETTINGS)


# What cannot be done --------------------------------------------------------------------------------------------------


def test_images_without_classes_are_refused(cache: Path) -> None:
    for split, part in (("train", "training"), ("test", "test")):
        reader = Shades(relabel={split: lambda labels: np.full(len(labels), -1)})
        with pytest.raises(DataError, match=rf"{part} .*data=pictures"):
            probing_of(data_of(cache / split, reader))
    single = Shades(relabel=dict.fromkeys(("train", "test"), np.ones_like))
    with pytest.raises(DataError, match=r"evaluation\.probe=null"):
        probing_of(data_of(cache / "single", single))
    few = data_of(cache / "few", Shades(train=1))
    lacking = "training" if len(few.validation_images()) else "validation"
    with pytest.raises(DataError, match=f"{lacking} .*data=pictures"):
        probing_of(few)


@pytest.mark.fault("too few images for a classifier")
def test_too_few_images_for_a_classifier_are_refused_and_the_others_do_with_them(cache: Path) -> None:
    data = data_of(cache)
    with pytest.raises(ConfigError, match=r"probe\.classifiers: logistic .* 3 .* 2"):
        probing_of(data, "logistic", images=2)
    with pytest.raises(ConfigError, match=r"svm_images=1 "):
        probing_of(data, "svm", svm_images=1)
    assert len(probing_of(data, "mlp", "knn", images=2).images.ids["training"]) == 2


# Scores ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Probing, ProbeResults, list[int]]:
    """All classifiers, of images that pixels tell well and the model's embeddings too."""
    folder, done = tmp_path_factory.mktemp("scored"), list[int]()
    (folder / "best.ckpt").write_bytes(b"weights")
    probing = probing_of(data_of(folder / "cache"), *PROBES)
    embedded = probing.images.by_model(Means().eval(), folder / "best.ckpt", SETTINGS)
    return folder, probing, probing.score(embedded, [folder / "run" / "probes"], advance=done.append), done


def test_every_method_is_scored_by_every_classifier_image_by_image(
    scored: tuple[Path, Probing, ProbeResults, list[int]],
) -> None:
    _, probing, probed, done = scored
    metrics = [f"probe_{name}_{metric}" for name in PROBES for metric in ("accuracy", "cross_entropy")][:-1]
    assert {method: list(found) for method, found in probed.scores.items()} == dict.fromkeys(
        ("model", "raw_pixels", "exact_pca"), metrics
    )
    for found in probed.scores.values():
        for metric, values in found.items():
            assert (len(values), str(values.dtype)) == (60, "float64")
            assert np.isfinite(values).all()
            assert "cross_entropy" in metric or set(values) <= {0.0, 1.0}
        assert found["probe_logistic_accuracy"].mean() > 0.6
    right = probed.predictions["mlp"].classes.numpy() == probing.data.store("test").labels
    np.testing.assert_array_equal(probed.scores["model"]["probe_mlp_accuracy"], right)
    assert sum(done) == probing.steps == 3 * (4 + 4 + 1 + 2 + 2)
    assert list(probed.classes) == list(CLASSES)


def test_what_is_left_with_the_run_is_what_was_found(scored: tuple[Path, Probing, ProbeResults, list[int]]) -> None:
    folder, _, probed, _ = scored
    probes = folder / "run" / "probes"
    tried = {"mlp": "epochs", "linear": "epochs", "knn": "neighbours", "logistic": "strengths", "svm": "strengths"}
    tables = [f"{name}_{what}.csv" for name, what in tried.items()] + [f"{name}_classes.csv" for name in PROBES]
    assert sorted(path.name for path in probes.iterdir()) == sorted([*tables, "mlp.pt", "linear.pt", "logistic.pt"])
    for name, what in tried.items():
        rows, fitted = files.read_csv(probes / f"{name}_{what}.csv"), probed.fitted[name]
        assert [row.pop("chosen") == "True" for row in rows] == [i == fitted.chosen for i in range(len(rows))]
        assert [{key: float(value) for key, value in row.items()} for row in rows] == fitted.trials
    for name in ("mlp", "linear", "logistic"):
        probe = load_probe(probes / f"{name}.pt")
        found = probe.log_probabilities(probed.test.embeddings)
        expected = probed.predictions[name].log_probabilities
        assert expected is not None
        assert torch.equal(found, expected)
        assert probe.classes == CLASSES


def test_the_table_of_classes_is_scikit_learns_report(scored: tuple[Path, Probing, ProbeResults, list[int]]) -> None:
    folder, _, probed, _ = scored
    answers, labels = probed.predictions["knn"].classes, probed.test.labels
    report = classification_report(labels, answers, target_names=CLASSES, output_dict=True, zero_division=0.0)
    for row in files.read_csv(folder / "run" / "probes" / "knn_classes.csv"):
        own = report[row["class"]]
        assert [float(row[key]) for key in ("images", "precision", "recall", "f1")] == pytest.approx(
            [own[key] for key in ("support", "precision", "recall", "f1-score")]
        )


def test_a_class_without_test_images_has_its_row(
    tmp_path: Path, scored: tuple[Path, Probing, ProbeResults, list[int]]
) -> None:
    _, probing, probed, _ = scored
    rest = probed.test.labels != 1
    answers = replace(probed.predictions["knn"], classes=probed.predictions["knn"].classes[rest])
    samples = replace(probed.test, embeddings=probed.test.embeddings[rest], labels=probed.test.labels[rest])
    fewer = replace(probed, test=samples, predictions={"knn": answers}, fitted={"knn": probed.fitted["knn"]})
    assert [row["images"] for row in class_table(fewer, "knn")] == [20, 0, 20]
    assert class_table(fewer, "knn")[1]["recall"] == 0
    write_tables(fewer, probing.probes["knn"], tmp_path)
    assert len(files.read_csv(tmp_path / "knn_classes.csv")) == 3


def test_what_is_chosen_is_so_by_validation_images(scored: tuple[Path, Probing, ProbeResults, list[int]]) -> None:
    folder, probing, probed, _ = scored
    held = probing.images.by_model(Means().eval(), folder / "best.ckpt", SETTINGS).validation
    for fitted in probed.fitted.values():
        found = fitted.classifier.predict(held.embeddings).scores(held.labels)["accuracy"]
        assert fitted.trials[fitted.chosen]["validation_accuracy"] == float(found.mean())


def test_nothing_is_chosen_by_test_images(cache: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Other test labels, and other test images, change what is scored but no weight and no setting."""
    found = []
    for number, reader in enumerate(
        (Shades(), Shades(relabel={"test": lambda labels: (labels + 1) % 3}), Shades(test=40))
    ):
        probing = probing_of(data_of(cache / str(number), reader), *PROBES)
        embedded = probing.images.by_model(Means().eval(), checkpoint, SETTINGS)
        found.append(probing.score(embedded, [tmp_path / str(number)]))
    first, *others = found
    for other in others:
        for name in PROBES:
            assert other.fitted[name].trials == first.fitted[name].trials
            assert other.fitted[name].chosen == first.fitted[name].chosen
    assert torch.equal(others[0].predictions["mlp"].classes, first.predictions["mlp"].classes)
    assert others[0].scores["model"]["probe_mlp_accuracy"].mean() < first.scores["model"]["probe_mlp_accuracy"].mean()


# What is kept ---------------------------------------------------------------------------------------------------------


class Fits:
    """Counts the classifiers that are fitted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = Probing._fit

        def fit(probing: Probing, *given: Any) -> Any:
            self.count += 1
            return real(probing, *given)

        monkeypatch.setattr(module.Probing, "_fit", fit)

    def since(self) -> int:
        count, self.count = self.count, 0
        return count


def same(first: ProbeResults, second: ProbeResults) -> bool:
    return all(
        np.array_equal(values, second.scores[method][metric])
        for method, found in first.scores.items()
        for metric, values in found.items()
    )


def test_embeddings_are_computed_once_and_again_for_whatever_they_follow_from(cache: Path, checkpoint: Path) -> None:
    data = data_of(cache)

    def computed(probing: Probing | None = None, settings: dict[str, Any] = SETTINGS) -> bool:
        model = Means(data.config.fragment_shape).eval()
        done: list[int] = []
        found = (probing or probing_of(data)).images.by_model(model, checkpoint, settings, done.append)
        assert sum(done) == len((probing or probing_of(data)).images)
        assert len(found.test) == len((probing or probing_of(data)).images.ids["test"])
        return bool(model.seen)

    assert computed()
    assert not computed()
    assert not computed(Probing(replace(CONFIG, epochs=9), data, at_once=7, device=CPU))
    assert computed(probing_of(data, images=50))
    assert computed(settings={**SETTINGS, "width": 3})
    assert computed(probing_of(data_of(cache, seed=1)))
    assert computed(probing_of(data_of(cache, Shades(seed=1))))
    assert not computed()
    checkpoint.write_bytes(b"others")
    assert computed()
    data = data_of(cache, fragment_size=4)
    assert computed(probing_of(data))
    assert len(list((cache / "embeddings").iterdir())) == 7


def test_damaged_embeddings_are_computed_anew(cache: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    probing = probing_of(data_of(cache))
    first = probing.images.by_model(Means().eval(), checkpoint, SETTINGS)
    (path,) = (cache / "embeddings").iterdir()
    for damage in (b"", b"PK", b"nothing of the kind", path.read_bytes()[:-200]):
        path.write_bytes(damage)
        model = Means().eval()
        with caplog.at_level(logging.WARNING):
            again = probing.images.by_model(model, checkpoint, SETTINGS)
        assert model.seen
        assert str(path) in caplog.text
        assert torch.equal(again.training.embeddings, first.training.embeddings)
        caplog.clear()
        probing.images.by_model(model, checkpoint, SETTINGS)
        assert not caplog.text


def test_scores_of_baselines_are_kept_by_classifier(
    cache: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, data = Fits(monkeypatch), data_of(cache)

    def score(data: FragmentData, *classifiers: str, **changes: Any) -> tuple[ProbeResults, int, list[int]]:
        probing, done = probing_of(data, *classifiers, **changes), list[int]()
        embedded = probing.images.by_model(Means().eval(), checkpoint, SETTINGS)
        probed = probing.score(embedded, [tmp_path / str(len(list(tmp_path.iterdir()))) / "probes"], done.append)
        assert sum(done) == probing.steps
        return probed, fits.since(), done

    first, count, _ = score(data, "mlp", "knn")
    assert count == 6
    again, count, _ = score(data, "mlp", "knn")
    assert count == 2  # of the model, in a folder of its own
    assert same(first, again)
    assert score(data, "mlp", "knn", "linear")[1] == 5
    assert score(data, "knn", epochs=5)[1] == 1  # which has no epochs
    assert score(data, "mlp", epochs=5)[1] == 3
    assert score(data_of(cache, seed=1), "knn")[1] == 3
    (path,) = (cache / "scores").glob("raw_pixels-probe_linear-*")
    path.write_bytes(b"damaged")
    assert score(data, "linear")[1] == 2


def test_the_components_follow_the_width_of_the_embeddings(cache: Path, checkpoint: Path, tmp_path: Path) -> None:
    class Three(Means):
        def encode(self, fragments: Tensor) -> Tensor:
            return torch.cat([super().encode(fragments), fragments[:, :, 0, 0, :1]], -1)

    probing = probing_of(data_of(cache), "knn")
    for number, model in enumerate((Means(), Three())):
        embedded = probing.images.by_model(model.eval(), checkpoint, {**SETTINGS, "number": number})
        probing.score(embedded, [tmp_path / str(number)])
    assert len(list((cache / "scores").glob("exact_pca-*"))) == 2
    assert len(list((cache / "scores").glob("raw_pixels-*"))) == 1
    assert len(list((cache / "embeddings").glob("exact_pca-*"))) == 1


def test_a_saved_classifier_is_used_again_for_the_same_and_for_nothing_else(
    cache: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fits, data = Fits(monkeypatch), data_of(cache)
    run, other = tmp_path / "run" / "probes", tmp_path / "other" / "probes"

    def score(
        folder: Path, earlier: Path | None = None, data: FragmentData = data, **changes: Any
    ) -> tuple[ProbeResults, int]:
        probing = probing_of(data, "mlp", "logistic", "knn", **changes)
        embedded = probing.images.by_model(Means().eval(), checkpoint, SETTINGS)
        fits.since()
        found = probing.score(embedded, [folder, earlier] if earlier else [folder])
        return found, fits.since()

    first = score(run)[0]
    assert (run / "mlp.pt").is_file()
    second, count = score(run)
    assert count == 1  # of the neighbours
    assert same(first, second)
    assert second.fitted["mlp"].trials == first.fitted["mlp"].trials
    third, count = score(other, earlier=run)
    assert count == 1
    assert same(first, third)
    assert (other / "mlp.pt").read_bytes() == (run / "mlp.pt").read_bytes()
    assert (other / "mlp_epochs.csv").read_text() == (run / "mlp_epochs.csv").read_text()

    score(tmp_path / "fill", lr=0.1, strengths=[2.0])  # so that the baselines are known
    assert score(other, earlier=run, lr=0.1, strengths=[2.0])[1] == 3
    assert score(other, earlier=run)[1] == 1  # those of the run are still there
    (other / "mlp.pt").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert score(other)[1] == 2
    assert "mlp.pt" in caplog.text
    checkpoint.write_bytes(b"others")
    assert score(run)[1] == 3


# Principal components -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 64, 300])  # fewer than pixels, as many, more
def test_principal_components_are_scikit_learns(count: int) -> None:
    images = torch.from_numpy(layouts.pictures(count, (1, 8, 8))).float() / 255
    images += 0.05 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    expected = PCA(10, svd_solver="full").fit(images.flatten(1).double().numpy())
    mean, directions = components_of_parts(torch.split(images.flatten(1), 7), count, 64)
    np.testing.assert_allclose(mean, expected.mean_, atol=1e-6)
    overlap = np.abs(expected.components_ @ directions[:, :10].numpy())
    np.testing.assert_allclose(overlap, np.eye(10), atol=1e-4)
    assert directions.shape == (64, min(64, count - 1))
    np.testing.assert_allclose(directions.T @ directions, np.eye(min(64, count - 1)), atol=1e-4)


def test_components_are_fitted_to_training_images_and_no_more_than_there_are(cache: Path) -> None:
    data = data_of(cache)
    images = probing_of(data, images=40).images
    pixels = data.store("train").images[images.ids["training"]].reshape(40, -1) / 255
    shown = data.store("test").images.reshape(60, -1) / 255
    expected = PCA(5, svd_solver="full").fit(pixels)
    found = images.by_components(5).test.embeddings
    np.testing.assert_allclose(found.abs(), np.abs(expected.transform(shown)), atol=1e-4)
    assert images.by_components(1000).test.embeddings.shape == (60, 39)
    np.testing.assert_allclose(images.by_pixels().test.embeddings, shown, atol=1e-6)


# Real images ----------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
def test_real_images_are_told_better_than_by_chance(tmp_path: Path, real_data: Path) -> None:
    class Some(Cifar10):
        """The first images of each split."""

        def source(self, split: Split) -> Source:
            found = super().source(split)
            return replace(found, identity=found.identity | {"some": True}, images=1500)

        def blocks(self, split: Split) -> Iterator[Block]:
            first = next(iter(super().blocks(split)))
            yield Block(first.images[:1500], first.labels[:1500])

    data = data_of(tmp_path / "cache", Some(str(layouts.real(real_data, "cifar-10-batches-py"))), fragment_size=32)
    torch.manual_seed(0)
    model = ConvAutoencoder((3, 32, 32), 32, (8, 16)).eval()
    (tmp_path / "best.ckpt").write_bytes(b"untrained")
    names = ("mlp", "linear", "knn")
    probing = probing_of(data, *names, epochs=10, batch_size=50)
    probed = probing.score(probing.images.by_model(model, tmp_path / "best.ckpt", SETTINGS), [tmp_path / "probes"])
    assert probed.classes[3] == "cat"
    for method, found in probed.scores.items():
        for name in names:
            assert 0.15 < found[f"probe_{name}_accuracy"].mean() < 0.6, (method, name)
        assert found["probe_mlp_cross_entropy"].mean() < np.log(10)
