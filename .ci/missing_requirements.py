"""Print what the packages of a folder require and this environment, with the folder, lacks.

    python .ci/missing_requirements.py FOLDER

One requirement a line, as pip takes it. The folder has to come first on PYTHONPATH.
"""

import sys
from importlib.metadata import PackageNotFoundError, distributions, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def missing(requirement: Requirement, there: set[str]) -> bool:
    """Whether it has to be installed; ``there``: names that the folder has in some version."""
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return False
    if canonicalize_name(requirement.name) in there:
        return False
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return True
    return not requirement.specifier.contains(found, prereleases=True)


if __name__ == "__main__":
    packages = list(distributions(path=[sys.argv[1]]))
    names = {canonicalize_name(package.metadata["Name"]) for package in packages}
    lines = [line for package in packages for line in package.requires or ()]
    lacking = [r for r in map(Requirement, lines) if missing(r, names)]
    for requirement in lacking:
        requirement.marker = None
    print("\n".join(sorted({str(requirement) for requirement in lacking})), end="")
