"""The option that says where a person is."""

import argparse

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
