from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel
from fragrecon.models.conv import ConvVAE
from fragrecon.models.factories import create_linear_autoencoder, create_supervised_classifier
from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.models.mosaic import Mosaic
from fragrecon.models.siamese import Siamese
from fragrecon.models.simclr import SimCLR
from fragrecon.objectives.anti_correlation import AntiCorrelation
from fragrecon.objectives.base import Objective
from fragrecon.objectives.contrastive import Contrastive
from fragrecon.objectives.cross_entropy import CrossEntropy
from fragrecon.objectives.pairs import Pairs
from fragrecon.objectives.reconstruction import Reconstruction
from fragrecon.run import CONF, compose
from fragrecon.runs.modules import Facts, build_objective
from tests.descent import descend

CLASSES = 5
GRID = (1, 2)
"""Of the images of `batch`."""


def batch(puzzles: int = 2, images: int = 3, cells: int = 2, size: int = 4) -> FragmentBatch:
    random = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(images * cells, generator=random) for _ in range(puzzles)])
    sources = orders // cells
    classes = torch.randint(CLASSES, (puzzles, images), generator=random)
    return FragmentBatch(
        fragments=torch.rand(puzzles, images * cells, 3, size, size, generator=random),
        source_ids=sources,
        positions=orders % cells,
        rotations=torch.zeros_like(orders),
        labels=classes.gather(1, sources),
        image_ids=torch.arange(puzzles * images).view(puzzles, images),
    )


def autoencoder() -> FragmentModel:
    torch.manual_seed(0)
    return create_linear_autoencoder(latent_dim=7, input_size=4)


def classifier() -> FragmentModel:
    torch.manual_seed(0)
    return create_supervised_classifier(CLASSES, latent_dim=7, input_size=4)


def mosaic() -> FragmentModel:
    torch.manual_seed(0)
    return Mosaic((3, 4, 4), GRID, 7, width=16, depth=1, heads=2, window=2)


def inpainter() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder((3, 4, 4), 12, patch=2, depth=1, decoder_width=6, decoder_depth=1)


def siamese() -> FragmentModel:
    torch.manual_seed(0)
    return Siamese((3, 4, 4), 7, channels=[4, 4, 4], hidden=5)


def simclr() -> FragmentModel:
    torch.manual_seed(0)
    return SimCLR((3, 4, 4), 7, encoder_channels=[4], hidden=5)


def vae() -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE((3, 4, 4), 7, encoder_channels=[4])


def losses(objective: Objective, model: FragmentModel, of: FragmentBatch, seed: int = 0) -> dict[str, float]:
    found = objective(model, of, torch.Generator().manual_seed(seed))
    return {name: value.item() for name, value in found.items()}


class Fixed(FragmentModel):
    """A model with answers of its own: embeds by number, decodes and classifies by what it was given."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__((3, 4, 4), 1)
        self.answer = answer

    def encode(self, fragments: Tensor) -> Tensor:
        return torch.zeros(*fragments.shape[:2], 1)

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.answer

    def classify(self, latents: Tensor) -> Tensor:
        return self.answer


def test_cross_entropy_is_the_log_of_the_softmax_at_the_class_of_the_source_image() -> None:
    puzzles = batch()
    logits = 3 * torch.randn(2, 6, CLASSES, generator=torch.Generator().manual_seed(5))
    total, right = 0.0, 0
    for row, label in zip(logits.flatten(0, 1).tolist(), puzzles.labels.flatten().tolist(), strict=True):
        total -= math.log(math.exp(row[label]) / sum(map(math.exp, row)))
        right += max(range(CLASSES), key=row.__getitem__) == label
    found = losses(CrossEntropy(CLASSES, 7), Fixed(logits), puzzles)
    assert found["loss"] == pytest.approx(total / 12, rel=1e-6)
    assert found["accuracy"] == pytest.approx(right / 12, rel=1e-6)


def test_cross_entropy_of_no_knowledge_is_the_log_of_the_number_of_classes() -> None:
    found = losses(CrossEntropy(CLASSES, 7), Fixed(torch.zeros(2, 6, CLASSES)), batch())
    assert found["loss"] == pytest.approx(math.log(CLASSES), rel=1e-6)


def test_cross_entropy_of_certainty_is_nothing() -> None:
    puzzles = batch()
    sure = 100 * nn.functional.one_hot(puzzles.labels, CLASSES).float()
    assert losses(CrossEntropy(CLASSES, 7), Fixed(sure), puzzles) == {
        "loss": pytest.approx(0, abs=1e-6),
        "accuracy": 1.0,
    }


def test_cross_entropy_learns_classes_and_never_source_ids() -> None:
    model, puzzles = classifier().eval(), batch()
    assert not torch.equal(puzzles.labels, puzzles.source_ids)
    before = losses(CrossEntropy(CLASSES, 7), model, puzzles)
    puzzles.source_ids = (puzzles.source_ids + 1) % 3
    puzzles.positions = 1 - puzzles.positions
    puzzles.image_ids = puzzles.image_ids.flip(0)
    assert losses(CrossEntropy(CLASSES, 7), model, puzzles) == before
    puzzles.labels = (puzzles.labels + 1) % CLASSES
    assert losses(CrossEntropy(CLASSES, 7), model, puzzles)["loss"] != before["loss"]


def test_a_head_of_its_own_classifies_the_embeddings() -> None:
    torch.manual_seed(0)
    model, puzzles, objective = autoencoder().eval(), batch(), CrossEntropy(CLASSES, 7, hidden=[9])
    objective.check(model)
    first, second = (part for part in objective.modules() if isinstance(part, nn.Linear))
    latents = model.encode(puzzles.fragments).flatten(0, 1)
    hidden = (latents @ first.weight.T + first.bias).clamp(min=0)
    logits = hidden @ second.weight.T + second.bias
    assert logits.shape == (12, CLASSES)
    expected = -logits.log_softmax(1)[range(12), puzzles.labels.flatten()].mean().item()
    assert losses(objective, model, puzzles)["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_linear_head_has_no_hidden_layer_and_takes_the_place_of_the_models() -> None:
    model, puzzles, objective = classifier().eval(), batch(), CrossEntropy(CLASSES, 7, hidden=[])
    (head,) = (part for part in objective.modules() if isinstance(part, nn.Linear))
    assert (head.in_features, head.out_features) == (7, CLASSES)
    with torch.no_grad():
        head.weight.zero_(), head.bias.zero_()
    assert losses(objective, model, puzzles)["loss"] == pytest.approx(math.log(CLASSES), rel=1e-6)


def test_a_head_and_what_it_reads_are_trained_together() -> None:
    torch.manual_seed(0)
    model, puzzles, objective = simclr().train(), batch(), CrossEntropy(CLASSES, 7, hidden=[])
    start = {key: value.clone() for key, value in model.named_parameters()}
    every = [*model.parameters(), *objective.parameters()]
    descend(every, lambda: objective(model, puzzles, torch.Generator())["loss"], 150)
    assert losses(objective, model, puzzles)["accuracy"] > 0.9
    assert not [key for key, value in model.named_parameters() if torch.equal(value, start[key])]


def test_the_order_of_fragments_and_puzzles_does_not_matter() -> None:
    puzzles = batch()
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    moved = FragmentBatch(
        puzzles.fragments[:, order].flip(0),
        puzzles.source_ids[:, order].flip(0),
        puzzles.positions[:, order].flip(0),
        puzzles.rotations[:, order].flip(0),
        puzzles.labels[:, order].flip(0),
        puzzles.image_ids.flip(0),
    )
    pairs = (
        (AntiCorrelation(CLASSES), autoencoder()),
        (Reconstruction(), autoencoder()),
        (CrossEntropy(CLASSES, 7), classifier()),
        (Contrastive(GRID), mosaic()),
        (Pairs(GRID), siamese()),
    )
    for objective, model in pairs:
        assert losses(objective, model.eval(), moved) == pytest.approx(losses(objective, model, puzzles), rel=1e-5)


# All of conf/objective ------------------------------------------------------------------------------------------------

NODES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "objective").glob("*.yaml"))}
FITTING: dict[str, Callable[[], FragmentModel]] = {
    "anti_correlation": simclr,
    "combined": vae,
    "contrastive": mosaic,
    "cross_entropy": classifier,
    "masked": inpainter,
    "pairs": siamese,
    "reconstruction": autoencoder,
    "vae": vae,
}
"""Models of which an objective trains every part."""


def built(name: str, *, num_classes: int = CLASSES, **settings: object) -> Objective:
    node = compose([f"objective={name}"]).objective if name == "combined" else NODES[name]
    return build_objective({**node, **settings}, Facts((3, 4, 4), GRID, num_classes), 7)


@pytest.mark.parametrize("name", NODES)
def test_an_objective_keeps_its_contract(name: str) -> None:
    objective, model, before = built(name), FITTING[name](), torch.get_rng_state()
    objective.check(model)
    found = objective(model.train(), batch(), torch.Generator().manual_seed(0))
    assert tuple(found) == objective.parts
    assert objective.parts[0] == "loss"
    assert all(value.shape == () and value.dtype == torch.float32 for value in found.values())
    assert [value.requires_grad for value in found.values()] == [True] + [False] * (len(found) - 1)
    found["loss"].backward()
    for key, parameter in [*model.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
    before = torch.get_rng_state()
    assert losses(objective, model.eval(), batch(), seed=4) == losses(objective, model, batch(), seed=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_losses_are_computed_in_single_precision() -> None:
    puzzles = batch()
    for objective, answer in (
        (Reconstruction(), (puzzles.fragments + 2e-4).bfloat16()),
        (CrossEntropy(CLASSES, 7), torch.zeros(2, 6, CLASSES).bfloat16()),
    ):
        assert objective(Fixed(answer), puzzles, torch.Generator())["loss"].dtype == torch.float32


@pytest.mark.parametrize("name", NODES)
def test_an_objective_refuses_models_that_cannot(name: str) -> None:
    able: dict[str, set[Callable[[], FragmentModel]]] = {
        "combined": {vae},
        "cross_entropy": {classifier},
        "masked": {inpainter},
        "pairs": {siamese},
        "reconstruction": {autoencoder, vae},
        "vae": {vae},
    }
    every: set[Callable[[], FragmentModel]] = {autoencoder, classifier, inpainter, mosaic, siamese, simclr, vae}
    objective = built(name)
    for make in every:
        model = make()
        if make in able.get(name, every):
            objective.check(model)
        else:
            with pytest.raises(ConfigError, match=type(model).__name__):
                objective.check(model)


def test_two_latents_are_too_few_to_be_uncorrelated() -> None:
    with pytest.raises(ConfigError, match=r"model\.latent_dim .*2"):
        AntiCorrelation(CLASSES).check(SimCLR((3, 4, 4), 2, encoder_channels=[4], hidden=5))


@pytest.mark.parametrize("name", NODES)
def test_negative_numbers_are_refused(name: str) -> None:
    for key, value in NODES[name].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            with pytest.raises(ConfigError, match=rf"^objective\.{key}=-1 "):
                built(name, **{key: -1})


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("contrastive", {"temperature": 0.0}, r"objective\.temperature=0"),
        ("masked", {"temperature": 0.0}, r"objective\.temperature=0"),
        ("masked", {"ratio": 0.0}, r"objective\.ratio=0"),
        ("masked", {"ratio": 1.0}, r"objective\.ratio=1"),
        ("masked", {"mix": 1}, r"objective\.mix=1"),
        ("masked", {"mix": 2.5}, r"objective\.mix=2\.5"),
        ("masked", {"mix": True}, r"objective\.mix=True"),
        ("masked", {"homologous": 0.1}, r"objective\.homologous=0\.1 .*objective\.mix"),
        ("pairs", {"same": 0.0, "adjacent": 0.0}, r"objective\.same and objective\.adjacent"),
        ("cross_entropy", {"hidden": 3}, r"objective\.hidden=3"),
        ("cross_entropy", {"hidden": [0]}, r"objective\.hidden\[0\]=0"),
        ("cross_entropy", {"hidden": [8, 1.5]}, r"objective\.hidden\[1\]=1\.5"),
        ("cross_entropy", {"num_classes": 0}, "objective=cross_entropy .*classes"),
        ("anti_correlation", {"num_classes": 0}, "objective=anti_correlation .*classes"),
        ("reconstruction", {"error": "msee"}, r"objective\.error='msee' .* 'mse'\? Valid: l1, mse"),
        ("vae", {"error": {"mse": 0.5, "l2": 0.5}}, r"objective\.error='l2'"),
        ("reconstruction", {"error": {"mse": -1}}, r"objective\.error\.mse=-1"),
        ("reconstruction", {"error": {"mse": True}}, r"objective\.error=.*True"),
        ("reconstruction", {"error": {"l1": math.nan}}, r"objective\.error\.l1=nan"),
        ("reconstruction", {"error": {}}, r"objective\.error=\{\}"),
        ("reconstruction", {"reduction": "none"}, r"objective\.reduction='none' .* Valid: mean, sum"),
        ("reconstruction", {"bottleneck": math.inf}, r"objective\.bottleneck=inf"),
        ("vae", {"perceptual_network": "vgg"}, r"objective\.perceptual_network='vgg' .* 'vgg16'"),
        ("vae", {"warmup": 0.5}, r"objective\.warmup=0\.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        built(name, **settings)


def test_the_base_trains_nothing() -> None:
    with pytest.raises(NotImplementedError):
        Objective()(autoencoder(), batch(), torch.Generator())
