"""Which of a data set's classes are people."""

from collections import Counter
from collections.abc import Sequence

from spnet_d2.data.formats.convert.source import Source, SourceError

PERSON_NAMES = ("person", "pedestrian")


def choose_classes(
    source: Source, persons: Sequence[str] = (), ignored: Sequence[str] = ()
) -> tuple[set[str], set[str]]:
    """
    Choose classes by name (capitals don't matter) or id.

    Without ``persons`` it is the class the format itself defines, else the only class, else the
    only one called person or pedestrian.

    Returns:
        Class ids of people, and of ignore regions.

    Raises:
        SourceError: a name that isn't there, or no choice that is clear; it lists the classes.
    """
    counts = Counter(box.class_id for image in source.images for box in image.boxes)
    chosen = _ids(source, persons, "--person", counts)
    left_out = _ids(source, ignored, "--ignore-class", counts)
    if both := chosen & left_out:
        raise SourceError(f"{', '.join(sorted(both))}: both --person and --ignore-class.")
    people = chosen or _obvious(source, counts) - left_out
    # Named classes take precedence over those that the format ignores.
    return people, (left_out or set(source.ignored)) - people


def _ids(source: Source, words: Sequence[str], option: str, counts: Counter) -> set[str]:
    found = set()
    for word in words:
        named = {key for key, name in source.classes.items() if name.lower() == word.lower()}
        named = named or ({word} & source.classes.keys())
        if not named:
            raise SourceError(f"{option} {word}: there is no such class.\n{_table(source, counts)}")
        found |= named
    return found


def _obvious(source: Source, counts: Counter) -> set[str]:
    if source.persons:
        return set(source.persons)
    used = [key for key in source.classes if counts[key]]
    if len(used) == 1:
        return set(used)
    named = [key for key, name in source.classes.items() if name.lower() in PERSON_NAMES]
    if len(named) == 1:
        return set(named)
    raise SourceError(
        "Several classes could be people; choose with --person NAME_OR_ID ...\n"
        + _table(source, counts)
    )


def _table(source: Source, counts: Counter) -> str:
    rows = [
        f"  {key if key != name else '':>5}  {name:<24} {counts[key]:>8} boxes"
        for key, name in source.classes.items()
    ]
    return "\n".join(["Classes (id, name, boxes):", *rows] if rows else ["There are no classes."])
