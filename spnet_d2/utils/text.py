"""Text that leaves the program: file names of any encoding, terminals of any encoding.

A file name that is not UTF-8 (``photo\\xe9.jpg`` of an old archive) reaches Python with *lone
surrogates*, which no encoder takes. It must neither end a program nor lose a result.
"""

import logging
import os
import sys

# Of UTF-8, and of what takes its place in JSON: "\udce9" is JSON's own escape, so that the name
# that is read back opens the file.
REVERSIBLE = "backslashreplace"


def printable(text: str | os.PathLike) -> str:
    """``text`` that any UTF-8 file takes: bytes of a name that are no UTF-8 become ``\\xe9``."""
    data = os.fspath(text).encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def make_output_safe() -> None:
    """Let stdout, stderr and logs take any text; call it first in a command-line tool.

    What the terminal's encoding lacks (cp1252, ASCII) is written as ``\\xe9`` or ``\\u4eba``.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_PrintableRecord)


class _PrintableRecord(logging.LogRecord):
    """Of use for log files, whose handlers encode strictly."""

    def getMessage(self) -> str:  # noqa: N802  (logging's name)
        message = super().getMessage()
        try:
            return printable(message)
        except UnicodeEncodeError:  # a surrogate that stands for no byte
            return message.encode("utf-8", "backslashreplace").decode()
