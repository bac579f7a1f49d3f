#!/usr/bin/env python3
"""Train an SPNet, or evaluate one; --help says how."""

from spnet_d2.cli.train_net import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
