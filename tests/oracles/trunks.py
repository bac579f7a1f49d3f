"""Trunks and RoI stages for :mod:`tests.oracles.spnet`, on the authors' tensors by their names."""

import torch
import torch.nn.functional as F
from torch.func import functional_call
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import StochasticDepth

from tests.fixtures.llnl_shapes import SOLIDER_SWINS, torchvision_modules


def below(state, prefix):
    """Tensors whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


class TorchvisionTrunk:
    """torchvision's layers without their own weights and without stochastic depth."""

    def __init__(self, name, state, training):
        with torch.device("meta"):
            body, self.last = (m.train(training) for m in torchvision_modules(name))
        for module in body.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0
        returned = ("layer2", "layer3", "layer4") if "resnet" in name else ("3", "5", "7")
        self.body = IntermediateLayerGetter(body, {layer: layer for layer in returned})
        self.state, self.nhwc = state, "swin" in name

    def maps(self, x, prefix):
        """C3, C4 and C5 of images, of the tensors below ``prefix``."""
        maps = functional_call(self.body, below(self.state, f"{prefix}body."), x).values()
        return [m.permute(0, 3, 1, 2) for m in maps] if self.nhwc else list(maps)

    def stage(self, rois, prefix):
        """``feat_res4`` and ``feat_res5`` of RoI features (n, C, 14, 14)."""
        x = rois.permute(0, 2, 3, 1) if self.nhwc else rois
        out = functional_call(self.last, below(self.state, f"{prefix}head."), x)
        return rois.amax((2, 3)), out.amax((1, 2) if self.nhwc else (2, 3))


class SoliderTrunk:
    """SOLIDER's Swin; a stage copy holds a whole one."""

    def __init__(self, name, state):
        self.state, self.sizes = state, SOLIDER_SWINS[name][1:]

    def oracle(self, prefix):
        return SoliderOracle(below(self.state, f"{prefix}swin."), *self.sizes)

    def maps(self, x, prefix):
        maps = [self.oracle(prefix).maps(image) for image in x]
        return [torch.stack(level) for level in zip(*maps, strict=True)]

    def stage(self, rois, prefix):
        if len(rois) == 0:
            c = rois.shape[1]
            return [rois.new_zeros(0, c), rois.new_zeros(0, 2 * c)]
        vectors = [self.oracle(prefix).stage(roi) for roi in rois]
        return [torch.stack(kind) for kind in zip(*vectors, strict=True)]


def slow_trunk(name, state, training):
    """The trunk that ``llnl_shapes`` calls ``name``."""
    if name in SOLIDER_SWINS:
        return SoliderTrunk(name, state)
    return TorchvisionTrunk(name, state, training)


class SoliderOracle:
    """
    SOLIDER's Swin as the paper's authors run it, window by window and image by image.

    ``state`` has the names of its files.
    """

    def __init__(self, state, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)):
        self.state, self.depths, self.heads = state, depths, heads

    def linear(self, name, x):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, name, x):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    def attention(self, name, x, heads, shift):
        """x: (H, W, c). A token sees those of its window that it was beside before the shift."""
        height, width, c = x.shape
        x = F.pad(x, (0, 0, 0, -width % 7, 0, -height % 7))
        rows, cols = x.shape[:2]
        shifted = torch.roll(x, (-shift, -shift), (0, 1))
        out = torch.zeros_like(shifted)
        table = self.state[f"{name}.relative_position_bias_table"]
        for top in range(0, rows, 7):
            for left in range(0, cols, 7):
                window = shifted[top : top + 7, left : left + 7].reshape(49, c)
                y, z = torch.arange(49) // 7, torch.arange(49) % 7
                offset = (y[:, None] - y + 6) * 13 + (z[:, None] - z + 6)
                wrapped = (top + y >= rows - shift).long() * 2 + (left + z >= cols - shift).long()
                apart = (wrapped[:, None] != wrapped) * -100.0
                q, k, v = self.linear(f"{name}.qkv", window).view(49, 3, heads, -1).unbind(1)
                merged = []
                for h in range(heads):
                    logits = q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5 + table[offset, h] + apart
                    merged.append(logits.softmax(1) @ v[:, h])
                window = self.linear(f"{name}.proj", torch.cat(merged, 1))
                out[top : top + 7, left : left + 7] = window.view(7, 7, c)
        return torch.roll(out, (shift, shift), (0, 1))[:height, :width]

    def blocks(self, i, x):
        for j in range(self.depths[i]):
            block = f"stages.{i}.blocks.{j}"
            normed = self.norm(f"{block}.norm1", x)
            heads = self.heads[i]
            x = x + self.attention(f"{block}.attn.w_msa", normed, heads, 3 * (j % 2))
            hidden = self.linear(f"{block}.ffn.layers.0.0", self.norm(f"{block}.norm2", x))
            x = x + self.linear(f"{block}.ffn.layers.1", F.gelu(hidden))
        return x

    def merge(self, i, x):
        """2 x 2 patches into channels, then the semantic conditioning."""
        height, width = x.shape[:2]
        patches = F.unfold(x.permute(2, 0, 1)[None], 2, stride=2)[0].T
        patches = self.norm(f"stages.{i}.downsample.norm", patches)
        x = self.linear(f"stages.{i}.downsample.reduction", patches)
        x = x.view(height // 2, width // 2, -1)
        s = torch.tensor([0.6, 0.4])
        factor = F.softplus(self.linear(f"semantic_embed_w.{i}", s))
        return x * factor + self.linear(f"semantic_embed_b.{i}", s)

    def maps(self, image):
        name = "patch_embed.projection"
        x = F.conv2d(image[None], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 4)
        x = self.norm("patch_embed.norm", x[0].permute(1, 2, 0))
        maps = []
        for i in range(4):
            x = self.blocks(i, self.merge(i - 1, x) if i else x)
            maps.append(self.norm(f"norm{i}", x).permute(2, 0, 1))
        return maps[1:]

    def stage(self, roi):
        """(c, 14, 14) -> mean of the roi, mean of the last stage's normalised output."""
        out = self.norm("norm3", self.blocks(3, self.merge(2, roi.permute(1, 2, 0))))
        return roi.mean((1, 2)), out.mean((0, 1))
