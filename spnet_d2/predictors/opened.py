"""A predictor and how it was opened, as plain values that an index keeps to open it again."""

import argparse
from pathlib import Path
from typing import Any

import spnet_d2
from spnet_d2.pretrained import default_files

from .options import PredictorChoiceError, build_predictor

# Of the options, those that name a model.
_FILES = ("config_file", "weights", "detector", "reid", "exported")


class OpenedPredictor:
    """
    A predictor with what opened it.

    Attributes:
        predictor: finds and embeds people.
        model: plain values, for :meth:`again`.
        min_score: what it finds has this score at least.
    """

    def __init__(self, predictor: Any, model: dict[str, Any], min_score: float):
        self.predictor = predictor
        self.model = model
        self.min_score = min_score

    @classmethod
    def of(cls, args: argparse.Namespace) -> "OpenedPredictor":
        """
        Open what the options of :func:`~.options.add_predictor_options` name, else
        :func:`~spnet_d2.pretrained.default_files`.

        Raises:
            UserError: the options don't fit together, or something they name can't be used.
        """
        if not any(getattr(args, name) for name in _FILES):
            args = _with_default(args)
        if args.weights and not args.config_file:
            args = _with(args, config_file=_config_of(Path(args.weights)))
        predictor = build_predictor(args)
        score = predictor.min_score
        model: dict[str, Any] = {
            name: _absolute(getattr(args, name)) for name in (*_FILES, "runtime")
        }
        model |= {"opts": [str(word) for word in args.opts], "version": spnet_d2.__version__}
        return cls(predictor, {**model, "min_score": score}, score)

    @classmethod
    def again(cls, model: dict[str, Any], fingerprint: str) -> "OpenedPredictor":
        """
        Open the predictor of an index.

        Args:
            model: of :attr:`model`.
            fingerprint: that the predictor must have.

        Raises:
            UserError: its files are gone, or are not what they were.
        """
        names = (*_FILES, "runtime", "opts", "min_score")
        args = argparse.Namespace(**{name: model[name] for name in names})
        opened = cls.of(args)
        if opened.predictor.fingerprint != fingerprint:
            named = ", ".join(str(model[name]) for name in _FILES if model[name])
            raise PredictorChoiceError(
                f"The model's files ({named}) are not those the gallery was made with, so "
                "similarities would mean nothing. Put them back, or index into another gallery."
            )
        return opened


def files_there(model: dict[str, Any]) -> bool:
    """Whether the files of :attr:`OpenedPredictor.model` are still where they were."""
    paths = [Path(str(model[name])) for name in _FILES if model.get(name)]
    # Names of networks are no paths.
    return all(path.exists() for path in paths if path.is_absolute())


def _config_of(weights: Path) -> Path:
    """Of a converted checkpoint, or of a training run."""
    if not weights.is_file():
        raise PredictorChoiceError(f"No weight file at {weights.absolute()}; check --weights.")
    beside = weights.with_suffix(".yaml")
    return beside if beside.is_file() else weights.parent / "config.yaml"


def _with_default(args: argparse.Namespace) -> argparse.Namespace:
    config_file, weights = default_files()
    return _with(args, config_file=config_file, weights=weights)


def _with(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})


def _absolute(value: Any) -> str | None:
    """Paths stay valid in other folders; names of networks are no paths."""
    if value is None:
        return None
    path = Path(str(value))
    return str(path.resolve()) if path.exists() else str(value)
