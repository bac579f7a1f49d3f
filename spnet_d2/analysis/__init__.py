"""What a model costs: parameters, operations and the memory of a training step."""

from spnet_d2.analysis.memory import Account, Fit, account_step, fit_accounts
from spnet_d2.analysis.operations import Part, inference_parts

__all__ = ["Account", "Fit", "Part", "account_step", "fit_accounts", "inference_parts"]
