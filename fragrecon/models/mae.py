"""The masked autoencoder: an encoder of the visible patches only, and a small decoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, https://arxiv.org/abs/2111.06377.
Shapes: M images of P patches, V of them visible; D width of the encoder; where images are mixed, G groups of N images.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape, Unmixed
from fragrecon.models.patches import Patches, attention_views


class MaskedAutoencoder(FragmentModel):
    """A transformer encodes the visible patches and an image token; a narrower transformer predicts the other patches.

    The embedding is the mean of the encoded patches of a whole image.

    Args:
        fragment_shape: image shape (C, h, w).
        latent_dim: D, the width of the encoder.
        patch: side of a patch, in pixels.
        depth: number of blocks of the encoder.
        heads: number of attention heads of the encoder.
        decoder_width: width of the decoder.
        decoder_depth: number of blocks of the decoder.
        decoder_heads: number of attention heads of the decoder.

    Raises:
        ConfigError: the side of a patch does not divide the image, or a number of heads does not divide the width.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: PositiveInt = 192,
        patch: PositiveInt = 4,
        depth: PositiveInt = 6,
        heads: PositiveInt = 3,
        decoder_width: PositiveInt = 96,
        decoder_depth: PositiveInt = 2,
        decoder_heads: PositiveInt = 3,
    ) -> None:
        super().__init__(fragment_shape, latent_dim)
        self.patches = Patches(fragment_shape, patch)
        self.embed_patch = nn.Linear(self.patches.values, latent_dim)
        self.image_token = _learned(1, 1, latent_dim)
        self.positions = _learned(1, self.patches.count, latent_dim)
        self.encoder = _transformer("model.", latent_dim, depth, heads)
        self.to_decoder = nn.Linear(latent_dim, decoder_width)
        self.mask_token = _learned(decoder_width)
        self.decoder_positions = _learned(1, self.patches.count, decoder_width)
        self.decoder = _transformer("model.decoder_", decoder_width, decoder_depth, decoder_heads)
        self.to_pixels = nn.Linear(decoder_width, self.patches.values)

    def embed(self, fragments: Tensor) -> Tensor:
        """Embed whole images (M, C, h, w) as the mean (M, D) of their encoded patches."""
        return self._encode(self._tokens(fragments))[:, 1:].mean(1)

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predict all patches of masked images; see `fragrecon.models.base.Inpainter`.

        Args:
            images: (M, C, h, w) in [0, 1].
            mask: True for hidden patches, (M, P) bool.

        Returns:
            Patches (M, P, values).

        Raises:
            ValueError: the images have unequal numbers of visible patches.
        """
        return self._decode(*self._encode_visible(images, mask))

    def attention(self, images: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """Compute the attention weights of the decoder's last block; see `fragrecon.models.base.Attentive`."""
        *others, last = self.decoder.layers
        tokens = self._decoder_input(*self._encode_visible(images, mask))
        for block in others:
            tokens = block(tokens)
        assert isinstance(last, nn.TransformerEncoderLayer)
        normed = last.norm1(tokens)
        _, weights = last.self_attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
        found: Tensor = weights[torch.arange(len(images)), :, 1 + chosen, 1:]
        return found

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        """Draw the attention of the middle patch; see `fragrecon.models.patches.attention_views`."""
        return attention_views(self, fragments)

    def unmix(self, mixed: Tensor, mask: Tensor) -> Unmixed:
        """Encode whole mixed images; decode each of their N images from the tokens of its patches.

        See `fragrecon.models.base.Unmixer`.

        Args:
            mixed: (G, C, h, w) in [0, 1].
            mask: True for the hidden patches of each image, (G, N, P) bool.

        Returns:
            Encoded and predicted patches.

        Raises:
            ValueError: the images have unequal numbers of visible patches.
        """
        tokens = self._encode(self._tokens(mixed))
        visible = _positions(~mask.flatten(0, 1))  # (G * N, V)
        repeated = tokens.repeat_interleave(mask.shape[1], 0)
        own = torch.cat([repeated[:, :1], repeated[:, 1:].take_along_dim(visible.unsqueeze(-1), 1)], 1)
        return Unmixed(tokens[:, 1:], self._decode(own, visible).view(*mask.shape, -1))

    def _tokens(self, images: Tensor) -> Tensor:
        """Embed all patches of images (M, C, h, w), with their positions, as tokens (M, P, D)."""
        tokens: Tensor = self.embed_patch(self.patches.cut(images) * 2 - 1) + self.positions
        return tokens

    def _encode(self, tokens: Tensor) -> Tensor:
        """Encode tokens (M, V, D), with the image token in front: (M, 1 + V, D)."""
        with _attention_backend(tokens.device):
            encoded: Tensor = self.encoder(torch.cat([self.image_token.expand(len(tokens), -1, -1), tokens], 1))
        return encoded

    def _encode_visible(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the image token and the visible patches, (M, 1 + V, D); also return the patches' positions (M, V)."""
        visible = _positions(~mask)
        return self._encode(self._tokens(images).take_along_dim(visible.unsqueeze(-1), 1)), visible

    def _decoder_input(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Put encoded tokens (M, 1 + V, D) at their positions (M, V), and mask tokens elsewhere."""
        encoded = self.to_decoder(tokens)
        masked = self.mask_token.to(encoded.dtype).expand(len(visible), self.patches.count, -1)
        index = visible.unsqueeze(-1).expand(-1, -1, encoded.shape[-1])
        return torch.cat([encoded[:, :1], masked.scatter(1, index, encoded[:, 1:]) + self.decoder_positions], 1)

    def _decode(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Predict all patches (M, P, values) from encoded tokens (M, 1 + V, D) and the positions (M, V) of patches."""
        with _attention_backend(tokens.device):
            pixels: Tensor = self.to_pixels(self.decoder(self._decoder_input(tokens, visible))[:, 1:])
        return pixels


def _positions(chosen: Tensor) -> Tensor:
    """Indices of True in each row of (M, P), in order; raises `ValueError` if rows have different numbers of them."""
    counts = chosen.sum(1)
    if not torch.all(counts == counts[0]):
        raise ValueError(f"images should have equally many visible patches; they have {counts.tolist()}")
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def _attention_backend(device: torch.device) -> AbstractContextManager[None]:
    """Use plain matrix products on a CPU, whose fused kernel is slow for few tokens (half the time of a step)."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02)


def _transformer(prefix: str, width: int, depth: int, heads: int) -> nn.TransformerEncoder:
    if width % heads:
        raise ConfigError(f"{prefix}heads={heads} should divide the width {width}")
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
