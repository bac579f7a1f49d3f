"""A Milvus server for the gallery's tests, until this program is stopped.

    python .ci/milvus_server.py FOLDER [PORT]

PyPI's package brings the server itself, for Linux on x86-64. It writes below FOLDER only.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = "milvus==2.3.5"


def main() -> None:
    folder, port = Path(sys.argv[1]).resolve(), int((sys.argv[2:] or ["19530"])[0])
    code = folder / "package"
    if not (code / "milvus").is_dir():
        # Its old requirements would change those of the tests; it needs none of them.
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
        subprocess.run([*pip, "--no-deps", "--target", str(code), PACKAGE], check=True)
    sys.path.insert(0, str(code))
    # Strong consistency waits for a tick, and tests ask thousands of questions.
    os.environ["PROXY_TIMETICKINTERVAL"] = "20"
    from milvus import default_server

    default_server.set_base_dir(str(folder / "data"))
    default_server.listen_port = port
    default_server.start()
    print(f"milvus://127.0.0.1:{default_server.listen_port}", flush=True)  # noqa: T201
    # Also where it is killed: the server would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while default_server.running:
            time.sleep(1)
    finally:
        default_server.stop()


if __name__ == "__main__":
    main()
