"""Person search in two stages: any person detector, then any re-id model on the crops."""

from .detector import NetworkDetector
from .predictor import TwoStagePredictor
from .reid import ReidModel
from .settings import ModelFileError

__all__ = ["ModelFileError", "NetworkDetector", "ReidModel", "TwoStagePredictor"]
