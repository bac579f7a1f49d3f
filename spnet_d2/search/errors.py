"""The one error of this package that is the user's to mend."""

from spnet_d2.errors import UserError


class SearchInputError(UserError, ValueError):
    """A file, folder, box or weight file given by the user cannot be used; the message says why."""
