"""Footage that is added from the page: indexed by a process of its own."""

import time

from spnet_d2.web.jobs import Jobs
from spnet_d2.web.schemas import NewSource


def finished(jobs, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        (job,) = jobs.all()
        if job.state != "running":
            return job
        time.sleep(0.1)
    raise AssertionError("the job does not end")


def test_a_failed_job_says_why(gallery, tmp_path):
    """The model of painted people can't be opened by another process."""
    changes = []
    jobs = Jobs(gallery, [tmp_path], lambda: changes.append(1))
    try:
        started = jobs.add(NewSource(path=str(tmp_path / "gate"), camera="gate", name="again"))
        assert (started.state, started.source) == ("running", "again")
        job = finished(jobs)
    finally:
        jobs.close()
    assert job.state == "failed"
    assert job.message and "Traceback" not in job.message and "\n" not in job.message
    assert changes


def test_progress_is_read_from_the_index_command(gallery, tmp_path, monkeypatch):
    """What the command prints, and what the page shows of it."""
    lines = r"0 frames\r3 frames [00:01, 7 people, 1 of 4 units]\n9 pictures added\n"
    program = f"import sys; sys.stdout.write('{lines}')"
    jobs = Jobs(gallery, [tmp_path], lambda: None)
    seen = []
    try:
        run = jobs._run

        def replaced(job):
            job.command = [job.command[0], "-c", program]
            copy = job.view.model_copy
            monkeypatch.setattr(
                type(job.view),
                "model_copy",
                lambda view, update: seen.append(update) or copy(update=update),
            )
            run(job)

        monkeypatch.setattr(jobs, "_run", replaced)
        jobs.add(NewSource(path=str(tmp_path / "gate")))
        job = finished(jobs)
    finally:
        jobs.close()
    assert (job.state, job.message) == ("done", "9 pictures added")
    assert {"progress": 0.25, "message": "7 people found"} in seen
