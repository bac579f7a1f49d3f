"""Weights that come with the package, and the model that tools take when none is named."""

from pathlib import Path

from .config_files import config_folder, project_root
from .errors import UserError

# Name -> config below projects_configs; the weights lie beside it.
_PRETRAINED = {"starter": "starter/finetune_oc.yaml"}
DEMO = project_root() / "outputs" / "demo"


class UnknownWeightsError(UserError, ValueError):
    """A name that no weights of the package have."""


def pretrained_files(name: str) -> tuple[Path, Path]:
    """
    Config and weights of a name.

    Args:
        name: "starter" (docs/starter.md).

    Raises:
        UnknownWeightsError: there is no such name.
    """
    if name not in _PRETRAINED:
        raise UnknownWeightsError(
            f"No weights named {name!r} come with spnet_d2; there are: {', '.join(_PRETRAINED)}."
        )
    config = config_folder() / _PRETRAINED[name]
    return config, config.with_name(f"{name}.pth")


def default_files() -> tuple[Path, Path]:
    """Config and weights of the demo once ``make demo`` has run, else the starter's."""
    demo = DEMO / "config.yaml", DEMO / "model_final.pth"
    return demo if all(file.is_file() for file in demo) else pretrained_files("starter")
