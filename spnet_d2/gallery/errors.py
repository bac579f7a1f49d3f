"""The one error of the galleries, and how what the system refuses becomes one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from spnet_d2.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class GalleryError(UserError, ValueError):
    """A gallery, or what is added to it or looked for in it, cannot be used; the text says why."""


@contextmanager
def storage_errors(place: str | os.PathLike, doing: str) -> Iterator[None]:
    """
    Turn an ``OSError`` into one :class:`GalleryError` that says that nothing was lost.

    Args:
        place: the gallery.
        doing: what failed, as in "adding 20 people to".
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            why = "the disk is full; make room and do it again"
        elif error.errno in _CLOSED:
            why = f"the folder cannot be written ({error.strerror}); change its permissions"
        else:
            why = str(error)
        raise GalleryError(
            f"{doing} {place} failed, and the gallery is as before: {why}."
        ) from error
