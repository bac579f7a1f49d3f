"""YAML files that describe a network: where it is, what goes in, what comes out.

::

    network: yolox_nano.onnx        # .onnx, or OpenVINO's .xml; relative to this file
    licence: Apache-2.0
    size: [416, 416]                # height, width of the input
    channels: BGR                   # or RGB
    mean: [0, 0, 0]                 # (pixel / scale - mean) / std, in the order of channels
    std: [1, 1, 1]
    scale: 1                        # 255 for networks that take 0..1

A detector has further keys: :class:`DetectorSettings`. Paths may use environment variables
(``${MODELS}/yolox_nano.onnx``).
"""

import os
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spnet_d2.errors import UserError

# How an image of another shape becomes the network's input.
FITS = ("stretch", "top_left", "centre")
# Of a detector's outputs, see :mod:`.layouts`.
LAYOUTS = ("yolox", "yolov5", "yolov8", "ssd", "boxes_labels_scores")
HELP = "docs/two_stage.md shows the keys."
S = TypeVar("S", bound="NetworkSettings")


class ModelFileError(UserError, ValueError):
    """A network, or the YAML file that describes it, can't be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """
    What every network has; a re-id model has nothing else.

    Attributes:
        network: ``.onnx`` or ``.xml`` file.
        licence: of the weights, for people to read.
        size: (height, width) of the input.
        channels: "BGR" or "RGB".
        mean, std, scale: the input is ``(pixel / scale - mean) / std``, pixels from 0 to 255.
    """

    network: Path
    licence: str
    size: tuple[int, int]
    channels: str
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0

    def check(self) -> list[str]:
        """What is wrong, one sentence each."""
        wrong = []
        if not isinstance(self.licence, str) or not self.licence:
            wrong.append(f"licence must be a text, found {self.licence!r}")
        if not _numbers(self.size, 2) or any(v != int(v) or v < 1 for v in self.size):
            wrong.append(f"size must be [height, width] in pixels, found {self.size!r}")
        if self.channels not in ("BGR", "RGB"):
            wrong.append(f"channels must be BGR or RGB, found {self.channels!r}")
        for name in ("mean", "std"):
            if not _numbers(getattr(self, name), 3):
                wrong.append(f"{name} must be three numbers, found {getattr(self, name)!r}")
        if not wrong and 0 in (*self.std, self.scale):
            wrong.append("std and scale must not be 0")
        return wrong


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(NetworkSettings):
    """
    A person detector.

    Attributes:
        layout: of the output, one of :data:`LAYOUTS`.
        person: the class number of people in the output.
        fit: how an image fills the input: "stretch" (aspect ratio changes), "top_left" (padded
            below and right) or "centre" (padded on both sides).
        padding: value of padded pixels, 0 to 255.
        strides: of the grid of layout "yolox".
        outputs: names of the outputs that the layout takes; empty: all, as the network lists them.
        min_score: less sure boxes are left out.
        nms: IoU above which the less sure one of two boxes is dropped; 1 keeps all, for networks
            that do it themselves.
        max_people: most boxes of an image.
    """

    layout: str
    person: int
    fit: str = "stretch"
    padding: float = 114.0
    strides: tuple[int, ...] = (8, 16, 32)
    outputs: tuple[str, ...] = ()
    min_score: float = 0.3
    nms: float = 0.5
    max_people: int = 300

    def check(self) -> list[str]:
        wrong = super().check()
        if self.layout not in LAYOUTS:
            wrong.append(f"layout must be one of {', '.join(LAYOUTS)}, found {self.layout!r}")
        if self.fit not in FITS:
            wrong.append(f"fit must be one of {', '.join(FITS)}, found {self.fit!r}")
        for name in ("person", "max_people"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                wrong.append(f"{name} must be a whole number from 0 on, found {value!r}")
        for name, most in (("min_score", 1), ("nms", 1), ("padding", 255)):
            if not 0 <= getattr(self, name) <= most:
                wrong.append(f"{name} must lie between 0 and {most}, found {getattr(self, name)!r}")
        if not self.strides or not _numbers(self.strides, len(self.strides)):
            wrong.append(f"strides must be a list of numbers, found {self.strides!r}")
        return wrong


def read_settings(file: str | os.PathLike, kind: type[S]) -> S:
    """
    Read a YAML file that describes a network.

    Args:
        file: YAML.
        kind: :class:`NetworkSettings` for a re-id model, or :class:`DetectorSettings`.

    Raises:
        ModelFileError: no such file, another form, unknown or missing keys, values out of range,
            or no network where it says.
    """
    file = Path(file)
    content = _read_yaml(file)
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(map(str, set(content) - set(known))):
        raise ModelFileError(
            f"{file} has unknown keys: {', '.join(unknown)}; known are {', '.join(known)}. {HELP}"
        )
    if missing := [n for n, f in known.items() if f.default is MISSING and n not in content]:
        raise ModelFileError(f"{file} lacks {', '.join(missing)}. {HELP}")
    settings = _build(kind, content, file)
    if not settings.network.is_file():
        raise ModelFileError(
            f"{file}: no network at {settings.network}; get it, or correct its path."
        )
    return settings


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(
            f"No YAML file of a network at {file.absolute()} ({error.strerror}). {HELP}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{file}: expected keys such as network and size. {HELP}")
    return content


def _build(kind: type[S], content: dict[str, Any], file: Path) -> S:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    values["network"] = _path(values["network"], file)
    settings = kind(**values)
    try:
        wrong = settings.check()
    except TypeError as error:
        wrong = [f"a value is of another type than expected ({error})"]
    if wrong:
        raise ModelFileError(f"{file}: {'; '.join(wrong)}. {HELP}")
    return settings


def _path(text: Any, file: Path) -> Path:
    if not isinstance(text, str):
        raise ModelFileError(f"{file}: network must be a path, found {text!r}. {HELP}")
    expanded = os.path.expandvars(os.path.expanduser(text))
    if "$" in expanded:
        raise ModelFileError(
            f"{file}: the path {text} needs an environment variable that is not set; set it to "
            "the folder of the network."
        )
    return Path(os.path.normpath(file.absolute().parent / expanded))


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    )
