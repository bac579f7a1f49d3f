"""A filter in the language of engines that have one."""

import numpy as np

from .filter import Filter

_COLUMNS = {"cameras": "camera", "sources": "source", "batches": "batch"}


def sql(where: Filter) -> str | None:
    """A condition in SQL over the columns of :mod:`~.lance`; None: there is none."""
    parts = []
    for name, column in _COLUMNS.items():
        names = getattr(where, name)
        if names is not None:
            parts.append(_among(column, [_quoted(one) for one in names]))
    if where.ids is not None:
        parts.append(_among("id", [str(one) for one in where.ids]))
    # Null, a time that is unknown, is neither early nor late.
    if where.since is not None:
        parts.append(_compared("time >=", where.since))
    if where.before is not None:
        parts.append(_compared("time <", where.before))
    if where.min_score is not None:
        parts.append(f"score >= CAST({where.min_score!r} AS FLOAT)")
    return " AND ".join(parts) or None


def _among(column: str, values: list[str]) -> str:
    return f"{column} IN ({', '.join(values)})" if values else "false"


def _compared(comparison: str, time: np.datetime64) -> str:
    return "false" if np.isnat(time) else f"{comparison} {int(time.astype(np.int64))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
