"""Names and shapes of the authors' checkpoints, of every trunk and head they have."""

import torch
import torchvision
from torch import nn

from tests import thin_trunks

Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: nn.Module, prefix: str) -> Shapes:
    return {f"{prefix}{name}": tuple(t.shape) for name, t in module.state_dict().items()}


def layer(name: str, *weight: int, bias: bool = True) -> Shapes:
    """A linear layer or a convolution."""
    shapes: Shapes = {f"{name}.weight": weight}
    return {**shapes, f"{name}.bias": weight[:1]} if bias else shapes


def torchvision_modules(trunk: str) -> tuple[nn.Module, nn.Module]:
    """torchvision's trunk, and its last stage as the authors copy it."""
    if trunk in (thin_trunks.CONVNEXT, thin_trunks.SWIN):
        features = thin_trunks.torchvision_trunk(trunk)
        return features, nn.Sequential(*features[6:8])
    model = getattr(torchvision.models, trunk)()
    if trunk == "resnet50":
        body = nn.Sequential()
        for name, module in model.named_children():
            if name not in ("avgpool", "fc"):
                body.add_module(name, module)
        return body, model.layer4
    # A slice keeps its indices; the copy counts from 0.
    return model.features, nn.Sequential(*model.features[6:8])


def solider_shapes(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> Shapes:
    """SOLIDER's Swin by the names of its files."""
    shapes = layer("patch_embed.projection", width, 3, 4, 4) | layer("patch_embed.norm", width)
    for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        c = width * 2**i
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            shapes |= layer(f"{block}.norm1", c) | layer(f"{block}.norm2", c)
            attention = f"{block}.attn.w_msa"
            shapes[f"{attention}.relative_position_bias_table"] = (169, count)
            shapes[f"{attention}.relative_position_index"] = (49, 49)
            shapes |= layer(f"{attention}.qkv", 3 * c, c) | layer(f"{attention}.proj", c, c)
            shapes |= layer(f"{block}.ffn.layers.0.0", 4 * c, c)
            shapes |= layer(f"{block}.ffn.layers.1", c, 4 * c)
        if i < 3:
            down = f"stages.{i}.downsample"
            shapes |= layer(f"{down}.norm", 4 * c)
            shapes |= layer(f"{down}.reduction", 2 * c, 4 * c, bias=False)
        shapes |= layer(f"norm{i}", c)
        for kind in "wb":
            shapes |= layer(f"semantic_embed_{kind}.{i}", min(2 * c, 8 * width), 2)
    return shapes | layer("norm", 8 * width) | layer("head.fc", 1000, 8 * width)


# Width, blocks per stage and attention heads.
SOLIDER_SWINS = {
    "solider_swin_t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "solider_swin_s": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "solider_swin_b": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    thin_trunks.SOLIDER: (thin_trunks.WIDTH, thin_trunks.DEPTHS, thin_trunks.HEADS),
}


def llnl_shapes(
    trunk: str = "convnext_tiny",
    cascades: int = 0,
    separate: bool = False,
    reid_dim: int = 128,
    memory: str = "oim",
    moco: bool = False,
    logits: str = "norm",
    reid_loss: str = "reid_loss",
    identities: int = 50,
    queue: int = 64,
) -> Shapes:
    """
    Args:
        trunk: torchvision's name, or a key of ``SOLIDER_SWINS``.
        memory: "oim", "cq" or "" (none).
        moco: with a teacher.
        logits: "norm", "batchnorm" or "mlp".
        reid_loss: prefix of the memory below ``head.``.
    """
    if trunk in SOLIDER_SWINS:
        body = solider_shapes(*SOLIDER_SWINS[trunk])
        body = {f"swin.{name}": shape for name, shape in body.items()}
        copied = body
        c4, c5 = 4 * SOLIDER_SWINS[trunk][0], 8 * SOLIDER_SWINS[trunk][0]
    else:
        with torch.device("meta"):
            modules = torchvision_modules(trunk)
        body, copied = (shapes_of(m, p) for m, p in zip(modules, ("body.", "head."), strict=True))
        width = 256 if trunk == "resnet50" else body["body.0.0.weight"][0]
        c4, c5 = 4 * width, 8 * width
    backbone = dict(body)
    for i, channels in enumerate((c4 // 2, c4, c5)):
        backbone |= layer(f"fpn.inner_blocks.{i}.0", c4, channels, 1, 1)
        backbone |= layer(f"fpn.layer_blocks.{i}.0", c4, c4, 3, 3)
    backbone |= layer("fpn.extra_blocks.p6", c4, c5, 3, 3)
    backbone |= layer("fpn.extra_blocks.p7", c4, c4, 3, 3)

    head = layer("feature_head.emb_pred", 9 * 128, c4, 3, 3)
    for t in range(cascades + 1):
        head |= layer(f"bridge_layer.{t}.linear", 128, 128)
        for k in (0, 2, 4, 6):
            head |= layer(f"regression_head.{t}.tfm.{k}", 128, 128)
            if logits == "mlp":
                head |= layer(f"classification_head.{t}.tfm.{k}", 128, 128)
        head |= layer(f"regression_head.{t}.head", 4, 128)
        if logits == "batchnorm":
            head |= shapes_of(nn.BatchNorm1d(1), f"classification_head.{t}.head.norm.")
    if logits == "batchnorm":
        head |= shapes_of(nn.BatchNorm1d(1), "anchor_classification_head.logits.norm.")

    embedder = {f"emb_head.{name}": shape for name, shape in copied.items()}
    for level, channels, size in ((4, c4, reid_dim // 2), (5, c5, reid_dim - reid_dim // 2)):
        projector = f"nae_head.projectors.feat_res{level}"
        embedder |= layer(f"{projector}.0", size, channels)
        embedder |= shapes_of(nn.BatchNorm1d(size, affine=False), f"{projector}.1.")
    head |= {f"align_emb_head.{name}": shape for name, shape in embedder.items()}
    if moco:
        head |= {f"moco_align_emb_head.{name}": shape for name, shape in embedder.items()}
    for t in range(1, max(cascades, 1) + 1) if separate else ():
        loc = f"align_emb_loc_head.{t}"
        head |= {f"{loc}.emb_head.{name}": shape for name, shape in copied.items()}
        head |= layer(f"{loc}.head", 128, c5, bias=False)
    if memory == "oim":
        head[f"{reid_loss}.lut"], head[f"{reid_loss}.cq"] = (
            (identities, reid_dim),
            (queue, reid_dim),
        )
    elif memory == "cq":
        head[f"{reid_loss}.emb_cq"] = (queue, reid_dim)
        head[f"{reid_loss}.label_cq"] = head[f"{reid_loss}.age_cq"] = (queue,)

    shapes = {f"backbone.{name}": shape for name, shape in backbone.items()}
    if moco:
        shapes |= {f"moco_backbone.{name}": shape for name, shape in backbone.items()}
    return shapes | {f"head.{name}": shape for name, shape in head.items()}
