"""Text that leaves the program: file names of any encoding, terminals of any encoding.

A file name that is not UTF-8 (``photo\\xe9.jpg`` of an old archive) reaches Python with *lone
surrogates*, which no encoder takes. It must neither end a program nor lose a result.
"""

import logging
import os
import sys


def printable(text: str | os.PathLike) -> str:
    """``text`` that any UTF-8 file takes: bytes of a name that are no UTF-8 become ``\\xe9``."""
    text = os.fspath(text)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, such as of a JSON file
        return text.encode("utf-8", "backslashreplace").decode()


def make_output_safe() -> None:
    """Let stdout, stderr and logs take any text; call it first in a command-line tool.

    What the terminal's encoding lacks (cp1252, ASCII) is written as ``\\xe9`` or ``\\u4eba``.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_PrintableRecord)


class _PrintableRecord(logging.LogRecord):
    """For log files: their handlers encode strictly."""

    def getMessage(self) -> str:  # noqa: N802  (logging's name)
        return printable(super().getMessage())
