"""The settings at the end of a command line: KEY VALUE after KEY VALUE."""

import argparse


class KeyValuePairs(argparse.Action):
    """The action of an option that takes an even number of words."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) % 2:
            parser.error(f"settings are KEY VALUE pairs, found {len(values)} words: {values}")
        setattr(namespace, self.dest, values)


def add_settings_option(
    parser: argparse.ArgumentParser, help: str = "settings", nargs: str = argparse.REMAINDER
) -> None:
    """
    ``args.opts``, a list of words.

    Args:
        parser: of the tool.
        help: what they are for.
        nargs: "*" where ``parse_intermixed_args`` lets options follow.
    """
    parser.add_argument("opts", nargs=nargs, metavar="KEY VALUE", help=help, action=KeyValuePairs)
