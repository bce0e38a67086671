"""Convolutional autoencoder of images of any size, grey or coloured.

The encoder averages its last feature map over 4 x 4 cells, so that an image of any size has the same number of latents.
The decoder reads nothing but these latents and the requested size. `AutoEncoderCNNV3` can be used on its own;
`AdaptiveAutoencoder` is the same network as a `fragrecon.models.base.FragmentModel`.
"""

from fragrecon.models.cnn_v3.adapter import AdaptiveAutoencoder
from fragrecon.models.cnn_v3.network import AutoEncoder_CNNV3, AutoEncoderCNNV3
from fragrecon.models.cnn_v3.presets import PRESETS, create_autoencoder
from fragrecon.models.cnn_v3.views import visualize_attention

__all__ = [
    "PRESETS",
    "AdaptiveAutoencoder",
    "AutoEncoderCNNV3",
    "AutoEncoder_CNNV3",
    "create_autoencoder",
    "visualize_attention",
]
