"""Command lines of the project; ``tools/*.py`` and the installed commands ``spnet-*`` call them."""
