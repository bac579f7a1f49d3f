"""One gallery indexed by the machines of a Ray cluster.

Each actor runs the whole command: it takes units of work by the leases in the gallery's folder, as
processes do that anything else starts (:mod:`~.workers`). So Ray places actors, and starts them
again where a machine is lost; paths go to them, never frames.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from spnet_d2.gallery import GalleryError

# A lost machine costs an actor one of them.
_RESTARTS = 3


def run_actors(
    entry: Callable[[Sequence[str]], int], words: Sequence[str], count: int, address: str
) -> None:
    """
    Run a command in actors, each with a GPU of its own, or with its share of the cluster's cores.

    When one fails, the others go on with the remaining work. Stopping this program stops them all;
    what they finished stays.

    Args:
        entry: runs the command in an actor, and returns its exit status.
        words: of the command; the gallery and all footage lie in folders that all machines share.
        count: of actors; 0: one for each GPU, or a single one.
        address: of the cluster; ``local`` starts one on this machine, ``auto`` takes the one that
            this machine belongs to.

    Raises:
        GalleryError: Ray is not installed, there is no such cluster or it is too small, or an
            actor failed.
    """
    ray = _connect(address)
    try:
        gpus, cores = _share(ray.cluster_resources(), count, address)
        count = count or gpus or 1
        resources = {"num_gpus": 1 if gpus else 0, "num_cpus": cores}
        place = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **resources)(_Actor)
        actors = [place.remote() for _ in range(count)]
        calls = [actor.run.remote(entry, list(words), os.getcwd()) for actor in actors]
        failed = [reason for call in calls if (reason := _outcome(ray, call))]
    finally:
        ray.shutdown()
    if failed:
        raise GalleryError(
            f"{len(failed)} of {count} actors failed: {failed[0]} What was finished stays; the "
            "same command does the rest."
        )


class _Actor:
    def run(self, entry: Callable[[Sequence[str]], int], words: list[str], folder: str) -> str:
        """Why it failed; empty: it did not."""
        if not Path(folder).is_dir():
            return f"{os.uname().nodename} has no {folder}, in which the command was given."
        os.chdir(folder)
        # A process of many, which starts no others; Ray has set which GPU it sees.
        os.environ["LOCAL_RANK"] = "0"
        status = entry(words)
        return f"exit status {status}, see above." if status else ""


def _connect(address: str):
    try:
        import ray
    except ModuleNotFoundError as error:
        raise GalleryError("--ray needs Ray: pip install 'spnet_d2[ray]'.") from error
    # Nothing about the use goes anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, include_dashboard=False if address == "local" else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise GalleryError(
            f"--ray {address}: no Ray cluster answers ({error}). `ray start --head` starts one, "
            "`--ray local` needs none."
        ) from error
    return ray


def _share(has: dict[str, float], count: int, address: str) -> tuple[int, float]:
    """The cluster's GPUs, and cores for each actor; actors that never start would be waited for."""
    gpus, cores = int(has.get("GPU", 0)), int(has.get("CPU", 0))
    most, what = (gpus, "GPUs") if gpus else (cores, "cores")
    if max(count, 1) > most:
        raise GalleryError(f"--num-gpus {count}, but the Ray cluster {address} has {most} {what}.")
    return gpus, max(1, cores // (count or gpus or 1))


def _outcome(ray, call) -> str:
    try:
        return ray.get(call)
    except ray.exceptions.RayError as error:
        return f"{str(error).strip().splitlines()[-1]}."
