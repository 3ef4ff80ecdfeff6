"""Vision transformer ViT-B/16, with the names of the weights that Owkin publishes for Phikon.

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929. Phikon: Filiot et al., Scaling
Self-Supervised Learning for Histopathology with Masked Image Modeling, medRxiv 2023.07.21.23292757.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-12  # of the layer norms in these weights


class _Dense(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x)
        return y


class _Heads(nn.Module):
    """(batch, n, width) -> the same shape: softmax(q k^T / sqrt(d)) v in each head."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self._parts())
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.query, self.key, self.value


class _Layer(nn.Module):
    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=_EPS)
        self.attention = nn.ModuleDict({"attention": _Heads(width, num_heads), "output": _Dense(width, width)})
        self.layernorm_after = nn.LayerNorm(width, eps=_EPS)
        self.intermediate = _Dense(width, hidden)
        self.output = _Dense(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention["output"](self.attention["attention"](self.layernorm_before(x)))
        y: Tensor = x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))
        return y


class _Embeddings(nn.Module):
    """(batch, 3, image, image) -> (batch, 1 + patches, width)."""

    def __init__(self, width: int, image: int, patch: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, width))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, patch, stride=patch)})

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1)
        return tokens + self.position_embeddings


class VisionTransformer(nn.Module):
    """(batch, 3, image, image) -> (batch, width): what the last layer makes of the class token.

    The defaults are those of ViT-B/16: 86 million parameters.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden: int = 3072,
        image: int = 224,
        patch: int = 16,
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(width, image, patch)
        layers = [_Layer(width, num_heads, hidden) for _ in range(num_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*layers)})
        self.layernorm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder["layer"](self.embeddings(x))
        y: Tensor = self.layernorm(x[:, 0])
        return y
