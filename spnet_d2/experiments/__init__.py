"""The paper's experiments: published metrics, their configs, running and showing them."""

from spnet_d2.experiments.index import Experiment, load_index

__all__ = ["Experiment", "load_index"]
