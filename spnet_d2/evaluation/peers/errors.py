"""One kind of error for files of other projects."""

from spnet_d2.errors import UserError


class DumpError(UserError, ValueError):
    """A file of another project that can't be read, or doesn't fit the data set."""
