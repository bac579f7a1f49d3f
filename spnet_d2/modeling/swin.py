"""Swin trunks that compute what the authors' do: torchvision's Swin and SOLIDER's.

timm shifts the windows of a map and then pads it to whole windows. Both models of the authors pad
first, so that the padding, too, moves around. Maps are (N, H, W, C).
"""

import torch
import torch.nn.functional as F
from timm.models import FeatureListNet
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

# timm's Swins behind the names of SOLIDER's.
SOLIDER_SWINS = {
    f"solider_swin_{size}": f"swin_{size}_patch4_window7_224.ms_in1k"
    for size in ("tiny", "small", "base")
}
# Weights of "semantic" (clothes, body parts) and "appearance" features that the authors ask for.
_SEMANTICS = (0.6, 0.4)


class PadFirstBlock(SwinTransformerBlock):
    """A block that pads the normalised map to whole windows before it shifts them."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        bottom, right = -height % self.window_size[0], -width % self.window_size[1]
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        return super()._attn(x)[:, :height, :width]


class RuntimeShiftBlock(PadFirstBlock):
    """torchvision's: windows shift only along sides that are longer than one window."""

    def _attn(self, x: Tensor) -> Tensor:
        down, across = (
            shift if side > window else 0
            for side, window, shift in zip(
                x.shape[1:3], self.window_size, self.target_shift_size, strict=True
            )
        )
        self.shift_size = down, across
        return super()._attn(x)


def use_blocks(trunk: nn.Module, block: type[PadFirstBlock]) -> None:
    """Make timm's Swin blocks in ``trunk`` compute what ``block`` computes; weights stay."""
    for module in trunk.modules():
        if type(module) is SwinTransformerBlock:
            # timm has no option for the class of its blocks; they differ in no parameter.
            module.__class__ = block


class SemanticMerging(PatchMerging):
    """Patch merging, then SOLIDER's conditioning: x * softplus(W s + b) + (V s + v)."""

    def __init__(self, dim: int, out_dim: int):
        """
        Args:
            dim, out_dim: channels before and after.
        """
        super().__init__(dim, out_dim)
        self.scale = nn.Linear(2, out_dim)
        self.shift = nn.Linear(2, out_dim)
        for linear in (self.scale, self.shift):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.register_buffer("semantics", torch.tensor(_SEMANTICS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x * F.softplus(self.scale(self.semantics)) + self.shift(self.semantics)


class SoliderSwin(nn.Module):
    """
    SOLIDER's Swin: maps of strides 8, 16 and 32, each through a layer norm of its own.

    Conditioning acts on what a stage hands to the next one, not on its map. Blocks always shift,
    also on maps of one window.
    """

    # RoI features are averaged, where other trunks take maxima.
    roi_pooling = "avg"

    def __init__(self, body: FeatureListNet, random: bool = False):
        """
        Args:
            body: timm's Swin as a list of its last three stages' maps.
            random: initialise as the authors' "random", PyTorch's default for every layer.
        """
        super().__init__()
        use_blocks(body, PadFirstBlock)
        if random:
            for name, parameter in body.named_parameters():
                if name.endswith("relative_position_bias_table"):
                    nn.init.zeros_(parameter)
            for module in body.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.reset_parameters()
        for name in body.feature_info.module_name():
            stage = body[name.replace(".", "_")]
            plain = stage.downsample
            assert isinstance(plain, PatchMerging)
            merging = SemanticMerging(plain.dim, plain.out_dim)
            merging.load_state_dict(plain.state_dict(), strict=False)
            stage.downsample = merging
        self.body = body
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in body.feature_info.channels())
        self.feature_info = body.feature_info
        self.output_fmt = body.output_fmt

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, as timm's own models do."""
        self.body.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> three maps (N, H/s, W/s, C)."""
        return [norm(m) for norm, m in zip(self.norms, self.body(x), strict=True)]
