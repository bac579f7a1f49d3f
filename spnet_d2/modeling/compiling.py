"""``torch.compile`` of what takes most of the time (``MODEL.SPNET.COMPILE``)."""

from torch import nn


def compile_networks(model: nn.Module, backend: str = "inductor") -> None:
    """
    Compile the trunk and the RoI heads' copies of its last stage, and the momentum twin's.

    Modules are compiled in place, when they are called first: names of weights stay, as do hooks.
    Sizes of images and numbers of RoIs may change: the first change compiles once more, for any.
    Numbers are eager mode's up to rounding, but stochastic depth draws other ones.

    Args:
        model: an SPNet.
        backend: of ``torch.compile``.
    """
    twins = [] if model.twin is None else [model.twin.backbone]
    for backbone in (model.backbone, *twins):
        backbone.trunk.compile(backend=backend)
    for name, module in model.named_modules():
        if name.endswith("copy.stage"):
            module.compile(backend=backend)
