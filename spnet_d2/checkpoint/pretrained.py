"""ImageNet weights that are not there: one clear error, whatever library was to fetch them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import timm

from spnet_d2.errors import UserError

KEY = "MODEL.SPNET.BACKBONE.PRETRAINED"


class PretrainedWeightsError(UserError, FileNotFoundError):
    """``MODEL.SPNET.BACKBONE.PRETRAINED`` names a missing file, or a download that failed."""


@contextmanager
def downloading(source: str, name: str, url: str) -> Iterator[None]:
    """
    Turn the failure of a download in this block into one error.

    Args:
        source: value of ``MODEL.SPNET.BACKBONE.PRETRAINED``.
        name: of the model.
        url: where its weights are.

    Raises:
        PretrainedWeightsError: it says what was to be downloaded, from where, and how to do
            without.
    """
    try:
        yield
    # Networks, proxies, caches and disks fail with a dozen types, few of which are OSErrors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 300 else f"{reason[:300]} ..."
        raise PretrainedWeightsError(
            f"{KEY} is {source!r}, but the weights of {name} can't be downloaded from {url} "
            f"({type(error).__name__}: {reason.removesuffix('.')}). Download that file on another "
            f"machine, put it anywhere on this one, and give its path as {KEY}; '' starts from "
            "random weights."
        ) from error


def hub_url(name: str) -> str:
    """Where timm gets a model's weights."""
    found = timm.get_pretrained_cfg(name)
    if found and found.hf_hub_id:
        return f"https://huggingface.co/{found.hf_hub_id}"
    address = found.url if found else ""
    return str(address or "the hub of timm, which lists no address")


def missing_file(path: str) -> PretrainedWeightsError:
    """The error for a weight file that isn't there."""
    return PretrainedWeightsError(
        f"No weight file at {KEY} {os.path.abspath(path)!r}. Give the path of a weight file, "
        "'hub' or 'torchvision' to download one, or '' for random weights."
    )
