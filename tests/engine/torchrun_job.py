"""torchrun of a test: ``tools/train_net.py`` on the tiny corpus, its first argument."""

import sys
from pathlib import Path

from spnet_d2.data.catalog import register_person_search
from tests.fixtures.scripts import load_script

if __name__ == "__main__":
    corpus = Path(sys.argv.pop(1))
    register_person_search("tiny_train", corpus / "people.json", corpus)
    load_script("tools/train_net.py").run()
