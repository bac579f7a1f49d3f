"""``torch.compile`` of what takes most of the time (``MODEL.SPNET.COMPILE``)."""

from collections.abc import Iterable

from torch import nn


def compile_networks(
    model: nn.Module, trunks: Iterable[nn.Module], backend: str = "inductor"
) -> None:
    """
    Compile trunks and the RoI heads' copies of their last stage.

    Modules are compiled in place, when they are called first: names of weights stay, as do hooks.
    Sizes of images and numbers of RoIs may change: the first change compiles once more, for any.
    Numbers are eager mode's up to rounding, but stochastic depth draws other ones.

    Args:
        model: an SPNet.
        trunks: its own and its momentum encoder's.
        backend: of ``torch.compile``.
    """
    for trunk in trunks:
        trunk.compile(backend=backend)
    for name, module in model.named_modules():
        if name.endswith("copy.stage"):
            module.compile(backend=backend)
