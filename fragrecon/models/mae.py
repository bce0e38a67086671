"""The masked autoencoder: an encoder that sees the visible patches only, and a light decoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, https://arxiv.org/abs/2111.06377.
Shapes: M images of P patches, V of them visible; where images are mixed, G groups of N.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel, Shape, Unmixed
from fragrecon.models.patches import Patches, attention_views


class MaskedAutoencoder(FragmentModel):
    """A transformer encodes the visible patches and a token for the image; a narrower one fills in the others.

    Args:
        fragment_shape: (C, h, w) of an image.
        latent_dim: D, width of the encoder.
        patch: side of a patch, in pixels.
        depth: blocks of the encoder.
        heads: of its attention.
        decoder_width: of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: of its attention.

    Raises:
        ConfigError: patches do not divide the image, or heads a width.
    """

    def __init__(
        self,
        fragment_shape: Shape,
        latent_dim: int = 192,
        patch: int = 4,
        depth: int = 6,
        heads: int = 3,
        decoder_width: int = 96,
        decoder_depth: int = 2,
        decoder_heads: int = 3,
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
        """The mean of the patches' tokens, of whole images (M, C, h, w)."""
        return self._encode(self._tokens(fragments))[:, 1:].mean(1)

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """What lies in each patch, (M, P, values), of images (M, C, h, w) whose patches are hidden where mask (M, P).

        Raises:
            ValueError: the images have not equally many visible patches.
        """
        return self._decode(*self._seen(images, mask))

    def attention(self, images: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """In the last block of the decoder; see `fragrecon.models.base.Attentive`."""
        *others, last = self.decoder.layers
        tokens = self._filled(*self._seen(images, mask))
        for block in others:
            tokens = block(tokens)
        assert isinstance(last, nn.TransformerEncoderLayer)
        normed = last.norm1(tokens)
        _, weights = last.self_attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
        found: Tensor = weights[torch.arange(len(images)), :, 1 + chosen, 1:]
        return found

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        return attention_views(self, fragments)

    def unmix(self, mixed: Tensor, mask: Tensor) -> Unmixed:
        """Encode mixed images (G, C, h, w) whole; decode each of the N images of each from the tokens of its patches.

        Raises:
            ValueError: the images have not equally many patches where mask (G, N, P) is False.
        """
        tokens = self._encode(self._tokens(mixed))
        own = _places(~mask.flatten(0, 1))  # (G * N, V)
        each = tokens.repeat_interleave(mask.shape[1], 0)
        seen = torch.cat([each[:, :1], each[:, 1:].take_along_dim(own.unsqueeze(-1), 1)], 1)
        return Unmixed(tokens[:, 1:], self._decode(seen, own).view(*mask.shape, -1))

    def _tokens(self, images: Tensor) -> Tensor:
        """Of all patches, (M, P, D)."""
        tokens: Tensor = self.embed_patch(self.patches.of(images) * 2 - 1) + self.positions
        return tokens

    def _encode(self, tokens: Tensor) -> Tensor:
        """Tokens (M, V, D) in each other's light, after the image's own: (M, 1 + V, D)."""
        with _quick_attention(tokens.device):
            encoded: Tensor = self.encoder(torch.cat([self.image_token.expand(len(tokens), -1, -1), tokens], 1))
        return encoded

    def _seen(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (M, 1 + V, D) of an image and its visible patches, encoded, and the places (M, V) of these."""
        visible = _places(~mask)
        return self._encode(self._tokens(images).take_along_dim(visible.unsqueeze(-1), 1)), visible

    def _filled(self, tokens: Tensor, places: Tensor) -> Tensor:
        """What is decoded: of tokens (M, 1 + V, D), those at places (M, V), and mask tokens elsewhere."""
        seen = self.to_decoder(tokens)
        filled = self.mask_token.to(seen.dtype).expand(len(places), self.patches.count, -1)
        index = places.unsqueeze(-1).expand(-1, -1, seen.shape[-1])
        return torch.cat([seen[:, :1], filled.scatter(1, index, seen[:, 1:]) + self.decoder_positions], 1)

    def _decode(self, tokens: Tensor, places: Tensor) -> Tensor:
        """The patches (M, P, values) that follow from an image's token and those at places (M, V): (M, 1 + V, D)."""
        with _quick_attention(tokens.device):
            pixels: Tensor = self.to_pixels(self.decoder(self._filled(tokens, places))[:, 1:])
        return pixels


def _places(chosen: Tensor) -> Tensor:
    """Where rows (M, P) are True, in order; raises `ValueError` unless equally often in each."""
    counts = chosen.sum(1)
    if not torch.all(counts == counts[0]):
        raise ValueError("images of a batch should have equally many visible patches")
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def _quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain products on a CPU, whose fused kernel takes half the time of a training step on so few tokens."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02)


def _transformer(prefix: str, width: int, depth: int, heads: int) -> nn.TransformerEncoder:
    if heads < 1 or width % heads:
        raise ConfigError(f"{prefix}heads={heads} should divide the width {width}")
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
