"""Which errors are the user's to fix: tools print these as one line, all others as a traceback."""

import dis
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent)
# Types that this package also raises without a class of its own, with a text for users.
_EXPLAINED = (ValueError, RuntimeError, ImportError)
# How a DataLoader's worker passes an error on.
_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")


class UserError(Exception):
    """
    Base of errors whose text says what was expected, what was found, and what to do.

    A class of errors in data, files, settings or weights derives from it and from the built-in
    class that it is a kind of.
    """


class SearchInputError(UserError, ValueError):
    """A user's file, folder, box or weights can't be searched with; the message says why."""


class JobError(UserError):
    """An error of the user's in one of a job's processes, told to the process that started it."""


def is_users(error: BaseException) -> bool:
    """
    Whether the user can fix an error by its text alone.

    Those are :class:`UserError`, what the system refuses (``OSError``: files, disks, network), and
    a ``ValueError``, ``RuntimeError`` or ``ImportError`` that a ``raise`` of this package wrote;
    also memory that doesn't suffice, wherever it was wanted. The same types out of libraries, and
    all others, are faults of programs.
    """
    if isinstance(error, UserError | OSError) or _memory_is_short(error) or _links_turn(error):
        return True
    if not isinstance(error, _EXPLAINED):
        return False
    if _WORKER.match(str(error)):
        # The worker's traceback, as text: its last place.
        places = re.findall(r'^ *File "(.+)", line \d+, in .*\n(?: *(.*)\n)?', str(error), re.M)
        return bool(places) and _ours(places[-1][0]) and places[-1][1].startswith("raise")
    place = error.__traceback__
    if place is None:
        return False
    while place.tb_next:
        place = place.tb_next
    code = place.tb_frame.f_code
    raised = code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised and _ours(code.co_filename)


def _memory_is_short(error: BaseException) -> bool:
    """Of Python and NumPy, of PyTorch on a GPU (without importing it), on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _links_turn(error: BaseException) -> bool:
    """Of pathlib before Python 3.13, for symbolic links that lead to themselves."""
    return isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from ")


def _ours(file: str) -> bool:
    return str(Path(file).resolve()).startswith(_PACKAGE)


def one_line(error: BaseException) -> str:
    """The text of an error on one line, without a worker's traceback."""
    text = str(error)
    if isinstance(error, FileExistsError) and error.filename is not None:
        text = f"{error.filename} is there already, and is no folder; name another one."
    if _WORKER.match(text):
        # What the traceback ends with: everything behind the last line that is indented.
        text = re.split(r"^ .*\n", text, flags=re.M)[-1]
        text = re.sub(r"^[\w.]+: ", "", text)
    if _memory_is_short(error):
        why = re.sub(r"^\[enforce fail.*?\] .*?\. ", "", text).rstrip(". \n") or "no more is free"
        text = (
            f"Memory doesn't suffice ({why}). Take smaller images or batches, or a smaller model."
        )
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def errors_in_one_line(tool: str, status: int = 1) -> Iterator[None]:
    """
    End a program with one line on stderr for an error that is the user's.

    Args:
        tool: its name, which the line begins with.
        status: the program's exit status; 2, as argparse has it: the command line is wrong.
    """
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        sys.stderr.write(f"{tool}: {one_line(error)}\n")
        raise SystemExit(status) from error


def without_traceback(record: logging.LogRecord) -> bool:
    """A filter for loggers: the user's errors are logged as one line."""
    if record.exc_info and record.exc_info[1] is not None and is_users(record.exc_info[1]):
        record.msg, record.args = f"{record.getMessage()} {one_line(record.exc_info[1])}", ()
        record.exc_info = record.exc_text = None
    return True


# Detectron2 logs whatever stops a training.
TRAIN_LOOP = "detectron2.engine.train_loop"


def exit_status(tool: str, run: Callable[[], object]) -> int:
    """
    Run a command-line tool that keeps what it has done when it is stopped.

    Returns:
        0; 1 after an error of the user's, which is one line on stderr; 130 after Ctrl-C.
    """
    try:
        run()
    except Exception as error:
        if not is_users(error):
            raise
        print(f"{tool}: {one_line(error)}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print(f"{tool}: stopped", file=sys.stderr)  # noqa: T201
        return 130
    return 0
