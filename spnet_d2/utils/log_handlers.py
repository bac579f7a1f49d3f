"""Handlers of Detectron2's loggers, which its set-up adds for every output folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("spnet_d2", "detectron2", "fvcore")


def remove_log_handlers() -> None:
    """Close all handlers, so that the next job's lines come once, in its own log."""
    for name in _NAMES:
        handlers = logging.getLogger(name).handlers
        while handlers:
            handlers.pop().close()


@contextmanager
def restored_log_handlers() -> Iterator[None]:
    """Remove the handlers that are added inside."""
    loggers = [logging.getLogger(name) for name in _NAMES]
    before = [list(log.handlers) for log in loggers]
    try:
        yield
    finally:
        for log, handlers in zip(loggers, before, strict=True):
            for handler in set(log.handlers) - set(handlers):
                log.removeHandler(handler)
