"""The option that says where a person is."""

import argparse
from collections.abc import Sequence

Box = tuple[float, float, float, float]


def box(text: str) -> Box:
    """The type of an option that takes left, top, width, height."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected four numbers x,y,w,h such as 412,180,64,170, found {text!r}"
        ) from None
    return x, y, w, h


def join_box(argv: Sequence[str]) -> list[str]:
    """``--box -5,10,20,40`` as ``--box=-5,...``: argparse takes that box for an option."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--box":
            words[-1] = f"--box={word}"
        else:
            words.append(word)
    return words
