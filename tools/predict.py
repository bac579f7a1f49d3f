#!/usr/bin/env python3
"""Write any predictor's predictions for a data set; --help says how."""

import sys

from spnet_d2.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
