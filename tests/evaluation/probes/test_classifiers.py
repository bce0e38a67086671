"""Classifiers of embeddings, against scikit-learn's own and slow loops, where much, little and nothing can be told."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from fragrecon.errors import RunError, TrainingError
from fragrecon.evaluation.probes.base import FittedProbe, Predictions, Samples, Scaling, best
from fragrecon.evaluation.probes.knn import NearestNeighboursProbe
from fragrecon.evaluation.probes.logistic import LogisticProbe
from fragrecon.evaluation.probes.network import Network, NetworkProbe, load_fitted, load_probe, save_probe
from fragrecon.evaluation.probes.svm import SupportVectorProbe
from tests.evaluation.samples import CPU

CLASSES, DIM = 4, 6
STRENGTHS = [0.01, 1.0, 100.0]
NAMES = ("mlp", "linear", "knn", "logistic", "svm")


def drawn(count: int, seed: int, apart: float = 1.0, classes: int = CLASSES) -> Samples:
    """Embeddings in clouds around a corner for each class; the numbers differ in place and spread."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    corners = apart * torch.randn(classes, DIM, generator=torch.Generator().manual_seed(99))
    points = corners[labels] + torch.randn(count, DIM, generator=random)
    return Samples(points * torch.logspace(-2, 2, DIM) + torch.arange(DIM), labels)


TRAIN, HELD, TEST = drawn(300, 0), drawn(120, 1), drawn(200, 2)


def fit(name: str, train: Samples = TRAIN, held: Samples = HELD, classes: int = CLASSES, **changes: Any) -> FittedProbe:
    steps: list[int] = []
    network: dict[str, Any] = {"epochs": 12, "batch_size": 32, "lr": 0.01, "seed": 0, "device": CPU}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "mlp": (NetworkProbe, {"hidden": [32], **network}),
        "linear": (NetworkProbe, {"hidden": [], **network}),
        "knn": (NearestNeighboursProbe, {"neighbours": [1, 5, 25]}),
        "logistic": (LogisticProbe, {"strengths": STRENGTHS}),
        "svm": (SupportVectorProbe, {"strengths": STRENGTHS, "images": 1000}),
    }
    kind, settings = kinds[name]
    probe = kind(name, **settings | changes)
    found: FittedProbe = probe.fit(train, held, classes, steps.append)
    assert sum(steps) == probe.steps == (1 if name == "knn" else len(found.trials))
    return found


def accuracy(fitted: FittedProbe, samples: Samples) -> float:
    return float(fitted.classifier.predict(samples.embeddings).scores(samples.labels)["accuracy"].mean())


def log_probabilities(fitted: FittedProbe, embeddings: Tensor) -> Tensor:
    found = fitted.classifier.predict(embeddings).log_probabilities
    assert found is not None
    return found


def shuffled(samples: Samples, seed: int = 0) -> Samples:
    """The same embeddings with each other's classes."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return Samples(samples.embeddings, samples.labels[order])


# Much, little, nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_classes_far_apart_are_all_told(name: str) -> None:
    train, held, test = (drawn(count, seed, apart=30) for count, seed in ((300, 0), (60, 1), (100, 2)))
    if name == "knn":  # which takes embeddings as they are, so that the number of greatest spread hides the rest
        train, held, test = (Samples(s.embeddings / torch.logspace(-2, 2, DIM), s.labels) for s in (train, held, test))
    assert accuracy(fit(name, train, held), test) == 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["noise", "permuted labels"])
def test_where_nothing_can_be_told_they_are_at_chance(name: str, wrong: str) -> None:
    def spoilt(count: int, seed: int) -> Samples:
        return drawn(count, seed, apart=0.0) if wrong == "noise" else shuffled(drawn(count, seed))

    test = spoilt(2000, 2)
    found = accuracy(fit(name, spoilt(400, 0), spoilt(400, 1)), test)
    assert found == pytest.approx(1 / CLASSES, abs=4 * math.sqrt(3 / 16 / 2000))


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_no_test_image_is_of_is_no_hindrance(name: str) -> None:
    rest = TEST.labels != 2
    fitted = fit(name)
    found, whole = (fitted.classifier.predict(given) for given in (TEST.embeddings[rest], TEST.embeddings))
    assert torch.equal(found.classes, whole.classes[rest])
    scores = found.scores(TEST.labels[rest])
    assert all(torch.isfinite(values).all() and len(values) == int(rest.sum()) for values in scores.values())


@pytest.mark.parametrize("name", ["mlp", "linear", "knn", "svm"])
def test_a_class_that_no_training_image_is_of_is_never_right_but_scored(name: str) -> None:
    some = TRAIN.labels != 3
    fitted = fit(name, Samples(TRAIN.embeddings[some], TRAIN.labels[some]))
    scores = fitted.classifier.predict(TEST.embeddings).scores(TEST.labels)
    assert scores["accuracy"][TEST.labels == 3].sum() == 0
    assert scores["accuracy"].mean() > 0.4
    assert all(torch.isfinite(values).all() for values in scores.values())


# Against other ways ---------------------------------------------------------------------------------------------------


def test_accuracy_and_cross_entropy_are_those_of_the_definitions() -> None:
    logits = torch.randn(50, CLASSES, generator=torch.Generator().manual_seed(0)).double().log_softmax(1)
    labels = TEST.labels[:50]
    found = Predictions(logits.argmax(1), logits).scores(labels)
    for i in range(50):
        values = logits[i].tolist()
        assert found["accuracy"][i] == float(values.index(max(values)) == labels[i])
        assert found["cross_entropy"][i] == pytest.approx(-values[int(labels[i])])
    assert float(found["cross_entropy"].mean()) == pytest.approx(log_loss(labels, logits.exp(), labels=range(CLASSES)))
    assert set(Predictions(labels).scores(labels)) == {"accuracy"}


def test_standardised_embeddings_are_scikit_learns() -> None:
    expected = StandardScaler().fit(TRAIN.embeddings.numpy())
    found = Scaling.of(TRAIN.embeddings)
    np.testing.assert_allclose(
        found(TEST.embeddings), expected.transform(TEST.embeddings.numpy()), rtol=1e-3, atol=1e-4
    )


def test_numbers_that_hardly_vary_are_not_blown_up() -> None:
    embeddings = TRAIN.embeddings.clone()
    embeddings[:, 0], embeddings[:, 1] = 3.0, 5.0 + 1e-6 * embeddings[:, 1]
    scaled = Scaling.of(embeddings)(embeddings)
    assert scaled[:, :2].abs().max() < 0.2
    assert scaled[:, 2:].std(0).tolist() == pytest.approx([1] * 4, rel=0.01)
    assert Scaling.of(torch.ones(5, 2))(torch.ones(5, 2)).tolist() == [[0, 0]] * 5


def test_by_one_factor_numbers_keep_their_proportions() -> None:
    embeddings = TRAIN.embeddings * torch.tensor([100.0, 10, 1, 1, 1, 0.1])
    scaled = Scaling.of(embeddings, "all")(embeddings)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    assert float(scaled.square().mean()) == pytest.approx(1, rel=1e-4)
    centred = embeddings - embeddings.mean(0)
    torch.testing.assert_close(scaled / scaled[0, 0], centred / centred[0, 0], atol=1e-4, rtol=1e-3)
    assert Scaling.of(torch.ones(5, 2), "all")(torch.ones(5, 2)).tolist() == [[0, 0]] * 5


def test_noise_and_decay_hold_an_mlp_back_from_what_chance_says() -> None:
    train, held = shuffled(TRAIN), shuffled(HELD, 1)
    changes: dict[str, dict[str, Any]] = {"plain": {}, "noise": {"noise": 2.0}, "decay": {"weight_decay": 30.0}}
    learned = {
        name: fit("mlp", train, held, epochs=120, scaling="all", **change).trials[-1]["train_accuracy"]
        for name, change in changes.items()
    }
    assert learned["plain"] > learned["noise"] + 0.1
    assert learned["plain"] > learned["decay"] + 0.1


def test_noise_is_of_training_alone_and_the_same_at_each_fit() -> None:
    noisy, again, other = (fit("mlp", noise=noise) for noise in (0.5, 0.5, 0.6))
    found = log_probabilities(noisy, TEST.embeddings)
    assert torch.equal(found, log_probabilities(noisy, TEST.embeddings))
    assert torch.equal(found, log_probabilities(again, TEST.embeddings))
    assert not torch.equal(found, log_probabilities(other, TEST.embeddings))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_neighbours_vote_as_in_a_slow_loop(count: int) -> None:
    fitted = fit("knn", neighbours=[count])
    found = fitted.classifier.predict(TEST.embeddings)
    assert found.log_probabilities is not None
    for i in range(40):
        distances = [float((TEST.embeddings[i] - other).square().sum()) for other in TRAIN.embeddings]
        near = sorted(range(len(distances)), key=distances.__getitem__)[:count]
        votes = Counter(int(TRAIN.labels[j]) for j in near)
        expected = [math.log((votes[c] + 1) / (count + CLASSES)) for c in range(CLASSES)]
        assert found.log_probabilities[i].tolist() == pytest.approx(expected)
        assert int(found.classes[i]) == max(range(CLASSES), key=lambda c: (votes[c], -c))
    peer = KNeighborsClassifier(count).fit(TRAIN.embeddings.numpy(), TRAIN.labels.numpy())
    np.testing.assert_array_equal(found.classes, peer.predict(TEST.embeddings.numpy()))


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_logistic_regression_is_scikit_learns(classes: int) -> None:
    train, held, test = (drawn(count, seed, classes=classes) for count, seed in ((300, 0), (100, 1), (100, 2)))
    fitted = fit("logistic", train, held, classes, strengths=[1.0])
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000, tol=1e-8))
    peer.fit(train.embeddings.double().numpy(), train.labels.numpy())
    expected = peer.predict_log_proba(test.embeddings.double().numpy())
    np.testing.assert_allclose(log_probabilities(fitted, test.embeddings), expected, atol=0.01)
    assert log_probabilities(fitted, test.embeddings).shape == (100, classes)


def test_support_vector_machines_are_scikit_learns_and_see_the_first_images_only() -> None:
    fitted = fit("svm", strengths=[1.0], images=100)
    peer = make_pipeline(StandardScaler(), SVC(C=1.0))
    peer.fit(TRAIN.embeddings[:100].numpy(), TRAIN.labels[:100].numpy())
    agree = fitted.classifier.predict(TEST.embeddings).classes.numpy() == peer.predict(TEST.embeddings.numpy())
    assert agree.mean() > 0.98
    other = Samples(TRAIN.embeddings, torch.cat([TRAIN.labels[:100], TRAIN.labels[100:].flip(0)]))
    same = fit("svm", other, strengths=[1.0], images=100)
    found, expected = (each.classifier.predict(TEST.embeddings) for each in (same, fitted))
    assert torch.equal(found.classes, expected.classes)
    assert found.log_probabilities is None


def test_a_linear_network_comes_to_what_hardly_regularised_logistic_regression_does() -> None:
    peer = fit("logistic", strengths=[1e4])
    fitted = fit("linear", epochs=200, lr=0.05, batch_size=300)
    expected = peer.classifier.predict(TRAIN.embeddings).scores(TRAIN.labels)["cross_entropy"].mean()
    assert fitted.trials[-1]["train_cross_entropy"] == pytest.approx(float(expected), abs=0.01)


# Choice ---------------------------------------------------------------------------------------------------------------


def test_the_choice_is_by_accuracy_then_cross_entropy_then_order() -> None:
    def trials(*pairs: tuple[float, float]) -> list[dict[str, float]]:
        return [{"validation_accuracy": a, "validation_cross_entropy": c} for a, c in pairs]

    assert best(trials((0.5, 0.1), (0.6, 9.0), (0.4, 0.0))) == 1
    assert best(trials((0.6, 2.0), (0.6, 1.0), (0.6, 3.0))) == 1
    assert best(trials((0.6, 1.0), (0.6, 1.0))) == 0
    assert best([{"validation_accuracy": 0.3}, {"validation_accuracy": 0.4}, {"validation_accuracy": 0.4}]) == 1


def test_an_epoch_in_the_middle_can_be_chosen_and_its_weights_are_those_that_count() -> None:
    """Training images of noise beside a few that are right: what is learned first holds longer than the rest."""
    train = Samples(TRAIN.embeddings, torch.where(torch.arange(300) % 2 == 0, TRAIN.labels, shuffled(TRAIN).labels))
    fitted = fit("mlp", train, hidden=[256], epochs=40, lr=0.02)
    assert 0 < fitted.chosen < 39
    told = fitted.trials[fitted.chosen]
    assert told["epoch"] == fitted.chosen
    assert told["validation_accuracy"] > fitted.trials[-1]["validation_accuracy"]
    assert accuracy(fitted, HELD) == pytest.approx(told["validation_accuracy"])
    scores = fitted.classifier.predict(HELD.embeddings).scores(HELD.labels)
    assert float(scores["cross_entropy"].mean()) == pytest.approx(told["validation_cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_told_of_each_trial_is_what_it_alone_would_come_to(name: str) -> None:
    fitted = fit(name)
    assert accuracy(fitted, HELD) == pytest.approx(fitted.trials[fitted.chosen]["validation_accuracy"])
    if name in ("knn", "logistic", "svm"):
        key, argument = ("neighbours",) * 2 if name == "knn" else ("strength", "strengths")
        assert [trial[key] for trial in fitted.trials] == ([1, 5, 25] if name == "knn" else STRENGTHS)
        for trial in fitted.trials:
            alone: dict[str, Any] = {argument: [trial[key]]}
            assert fit(name, **alone).trials == [trial]
        assert len({trial["validation_accuracy"] for trial in fitted.trials}) > 1


def test_more_neighbours_than_there_are_images_are_all_of_them() -> None:
    fitted = fit("knn", TRAIN.first(10), neighbours=[50, 100, 3])
    assert [trial["neighbours"] for trial in fitted.trials] == [3, 10]


def test_training_rates_fall_to_nothing_and_the_first_epochs_are_those_of_no_shorter_training() -> None:
    long, short = fit("mlp", epochs=12), fit("mlp", epochs=3)
    assert long.trials[0]["train_cross_entropy"] != short.trials[0]["train_cross_entropy"]
    losses = [trial["train_cross_entropy"] for trial in long.trials]
    assert abs(losses[-1] - losses[-2]) < 0.05 * abs(losses[1] - losses[0])


# The same again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_same_comes_again_whatever_was_drawn_before(name: str) -> None:
    first = fit(name)
    torch.rand(7)
    state = torch.get_rng_state()
    second = fit(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.trials == second.trials
    answers = [fitted.classifier.predict(TEST.embeddings) for fitted in (first, second)]
    assert torch.equal(answers[0].classes, answers[1].classes)
    if name != "svm":
        assert torch.equal(log_probabilities(first, TEST.embeddings), log_probabilities(second, TEST.embeddings))


def test_a_seed_of_its_own_gives_weights_and_orders_of_its_own() -> None:
    one, other = fit("linear", seed=0, batch_size=300, epochs=1), fit("linear", seed=1, batch_size=300, epochs=1)
    assert one.trials[0]["train_cross_entropy"] != other.trials[0]["train_cross_entropy"]


def test_every_epoch_shows_every_image_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []
    real = torch.randperm

    def noted(*given: Any, **how: Any) -> Tensor:
        order: Tensor = real(*given, **how)
        orders.append(order.tolist())
        return order

    monkeypatch.setattr(torch, "randperm", noted)
    fit("linear", epochs=5)
    assert [sorted(order) for order in orders] == [list(range(300))] * 5
    assert len({tuple(order) for order in orders}) == 5


def test_a_loss_that_is_no_number_is_told() -> None:
    with pytest.raises(TrainingError, match=r"epoch \d+.*evaluation\.probe\.lr"):
        fit("mlp", lr=1e30)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "linear", "logistic"])
def test_a_saved_classifier_says_the_same_bit_for_bit(tmp_path: Path, name: str) -> None:
    fitted, path = fit(name), tmp_path / "probes" / f"{name}.pt"
    save_probe(path, fitted, "key", ("a", "b", "c", "d"))
    again, key = load_fitted(path)
    assert (again.trials, again.chosen, key) == (fitted.trials, fitted.chosen, "key")
    expected = log_probabilities(fitted, TEST.embeddings)
    assert torch.equal(log_probabilities(again, TEST.embeddings), expected)
    probe = load_probe(path)
    assert torch.equal(probe.log_probabilities(TEST.embeddings.numpy()), expected)
    assert probe.classes == ("a", "b", "c", "d")
    assert [each.name for each in path.parent.iterdir()] == [f"{name}.pt"]
    contents = torch.load(path, weights_only=True)
    assert contents["widths"] == [DIM, *([32] if name == "mlp" else []), CLASSES]
    save_probe(path, fitted, "key", None)
    assert load_probe(path).classes is None


@pytest.mark.fault("flipped bit in a saved classifier")
def test_what_is_no_saved_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mlp.pt"
    with pytest.raises(RunError, match=r"mlp\.pt"):
        load_probe(path)
    save_probe(path, fit("mlp"), "key", None)
    whole = path.read_bytes()
    at = whole.index(torch.load(path, weights_only=True)["mean"].numpy().tobytes())
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for content in (b"", whole[: len(whole) // 2], flipped, b"something else"):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"mlp\.pt is damaged"):
            load_probe(path)
    path.write_bytes(whole)
    wrong: dict[str, dict[str, Any]] = {"format 9 where 1": {"format": 9}, "state_dict": {"widths": [DIM, 8, 4]}}
    for message, changes in wrong.items():
        torch.save(torch.load(path, weights_only=True) | changes, tmp_path / "other.pt")
        with pytest.raises(RunError, match=rf"other\.pt .*{message}"):
            load_probe(tmp_path / "other.pt")


def test_opening_one_draws_no_random_numbers_and_its_weights_are_frozen(tmp_path: Path) -> None:
    save_probe(tmp_path / "mlp.pt", fit("mlp"), "key", None)
    state = torch.get_rng_state()
    probe = load_probe(tmp_path / "mlp.pt")
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(probe, Network)
    assert not any(weight.requires_grad for weight in probe.layers.parameters())
