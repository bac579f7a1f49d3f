"""The paper's experiments: published figures, their configs, running and showing them."""

from spnet_d2.experiments.index import Experiment, load_catalogue

__all__ = ["Experiment", "load_catalogue"]
