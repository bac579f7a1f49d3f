"""Warnings about a file that is read many times."""

import functools
import logging


@functools.lru_cache(maxsize=1024)
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log ``message`` unless this process has logged it: each evaluation loads its data anew."""
    logger.warning("%s", message)
