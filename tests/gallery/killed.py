"""A writer that is killed at random moments, and what its gallery must hold then."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from spnet_d2.gallery import open_gallery

ROOT = Path(__file__).resolve().parents[2]
# Fewer than SPNET_TEST_KILLS=20 shows, because each takes a start of Python.
KILLS = int(os.environ.get("SPNET_TEST_KILLS", "0"))

# Adds, deletes and compacts for ever; tells each commit by one line, which holds who is there.
# The package's own start, which imports PyTorch and takes seconds, is left out.
WRITER = """
import json, sys, types

package = types.ModuleType("spnet_d2")
package.__path__ = ["spnet_d2"]
sys.modules["spnet_d2"] = package

from spnet_d2.gallery import Filter, open_gallery
from tests.gallery.people import made_up

assert not {"torch", "detectron2"} & sys.modules.keys()

store = open_gallery(sys.argv[1], write=True, **json.loads(sys.argv[2]))
step = 0
while True:
    print("try", flush=True)
    if step % 7 == 5:
        store.delete(Filter(ids=store.find()[::3]))
    elif step % 7 == 6:
        store.compact()
    else:
        store.add(made_up(20, seed=step))
    print("done", *store.find().tolist(), flush=True)
    step += 1
"""


def check_kills(address: Path, kills: int, longest: float, **options) -> None:
    """
    After each kill the gallery opens, and is as before or after the change it was at.

    Args:
        address: of the gallery.
        kills: how many writers are killed, one after the other.
        longest: seconds that one has at most.
        options: of the engine.
    """
    random = np.random.default_rng(0)
    with open_gallery(address) as store:
        before = store.find().tolist()
    for _ in range(kills):
        told = run_and_kill(address, random.uniform(0, longest), options)
        with open_gallery(address, **options) as store:
            ids = store.find().tolist()
            assert len(store.fetch(ids)) == store.count() == len(ids)
        known = told[-1] if told else before
        new = set(ids) - set(known)
        # All of an addition or nothing; all of a deletion or nothing.
        assert len(new) in (0, 20)
        assert set(known) <= set(ids) or set(ids) == set(known) - set(known[::3])
        before = ids


def run_and_kill(address: Path, seconds: float, options: dict) -> list[list[int]]:
    """Who was there after each commit that the writer told of."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(address), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout.readline() == "try\n"
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
    lines = [line.split() for line in rest.split("\n")[:-1] if line.startswith("done")]
    return [[int(word) for word in words[1:]] for words in lines]
