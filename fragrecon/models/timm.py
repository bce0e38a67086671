"""Networks of timm as models."""

from __future__ import annotations

import difflib

from pydantic import PositiveInt

from fragrecon.errors import ConfigError
from fragrecon.models.base import Shape
from fragrecon.models.encoder import Encoder


class TimmEncoder(Encoder):
    """A network of timm (Wightman, 2019) without its classifier.

    Args:
        fragment_shape: (C, h, w).
        name: name of the network in timm, such as ``resnet18``.
        pretrained: whether a new model starts from timm's weights, which are downloaded at first use.
        latent_dim: see `Encoder`.
        load_pretrained: False if other weights are loaded later, such as those of a run.

    Raises:
        ConfigError: timm is not installed, it has no such network, or the network does not accept such fragments.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        name: str,
        pretrained: bool = False,
        latent_dim: PositiveInt | None = None,
        load_pretrained: bool = True,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ConfigError(f'model=timm needs the extra: pip install "fragrecon[timm]" ({error})') from None
        except (RuntimeError, OSError) as error:  # torchvision is of another build than torch
            raise ConfigError(f"model=timm: timm cannot be imported, perhaps because of torchvision: {error}") from None
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.3)
            raise ConfigError(f"model.name='{name}' is not known to timm; the nearest are {', '.join(close)}")
        load = pretrained and load_pretrained
        network = timm.create_model(name, pretrained=load, in_chans=fragment_shape[0], num_classes=0)
        super().__init__(fragment_shape, network, latent_dim)
