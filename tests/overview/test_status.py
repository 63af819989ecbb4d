"""Where a study stands, as `ldae status` tells it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_plan import SMOKE, TABLE3, finish, jobs

from ldae.overview.status import status
from ldae.runtime.process import started_seconds

LINE = "pca: 2,000 of 8,000 images (25 %), 1,200 images/s, 0:00:05 left, loss 0.9\n"
STOPPED = "pca: saved and stopped at step 5 of 40: its time limit is near; start it again to continue\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n'


def run_folder(root: Path, row: str, *, log: str | None = None, pid: int | None = None, age: float = 0.0) -> None:
    """What a training leaves: a log, and a lock with the process that holds it, both written `age` seconds ago."""
    results, written = root / "results/smoke", time.time() - age
    if log is not None:
        path = results / f"logs/pretrain/{row}/seed0.log"
        path.parent.mkdir(parents=True)
        path.write_text(log)
        os.utime(path, (written, written))
    if pid is not None:
        lock = results / f"resume/pretrain/{row}/seed0/lock"
        lock.parent.mkdir(parents=True)
        about = {"host": os.uname().nodename, "pid": pid, "started": started_seconds(), "locks": None}
        lock.write_text(json.dumps(about))
        os.utime(lock, (written, written))


def told(text: str) -> dict[str, str]:
    """The line of each training in a status, by its row."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.startswith("pretrain")]
    return {line.split()[1].rstrip(","): line.partition("seed 0 ")[2] for line in lines}


def test_status_tells_who_runs_and_who_does_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run_folder(tmp_path, "pca", log=LINE, pid=os.getpid())
    run_folder(tmp_path, "predict_clean", log=LINE, pid=gone.pid)
    run_folder(tmp_path, "no_scaling", log=LINE, pid=os.getpid(), age=1000)
    run_folder(tmp_path, "image_input", log=LINE + "ldae: no space left on device\n")
    found = jobs(SMOKE, ["table3"], tmp_path)
    for title in ("dataset images", "tokenizer pca, seed 0", "pretrain image_output, seed 0"):
        finish(found[title])
    text = status(SMOKE, tmp_path, ["table3"])
    states = f"1 done, 1 running, 1 stale, 1 killed, 1 failed, {len(TABLE3) - 5} waiting"
    assert f"{len(TABLE3)} trainings at scale smoke: {states}" in text
    lines = told(text)
    assert re.match(r"running 25 % 1,200 images/s 0:00:05 \d+ s ago on", lines["pca"])
    assert lines["predict_clean"].startswith("killed 25 %")
    assert re.match(r"stale 25 % 1,200 images/s 0:00:05 10\d\d s ago on", lines["no_scaling"])
    assert lines["image_input"] == "failed 25 % ldae: no space left on device"


@pytest.mark.parametrize(
    ("log", "age", "driven", "word"),
    [
        ("", 3, True, "starting"),  # it is importing
        ("", 3, False, "killed"),  # nobody lives who could have started it
        ("", 4000, True, "stale"),
        ("a processor, 1 thread, float32\n", 3, True, "starting"),
        (LINE + "ldae: interrupted\n", 3, True, "interrupted"),
        (LINE + "ldae: interrupted\n", 4000, False, "interrupted"),
        (LINE + STOPPED, 3, True, "interrupted"),
        (TRACEBACK + "KeyboardInterrupt\n", 3, True, "interrupted"),
        (TRACEBACK + "RuntimeError: CUDA error\n", 3, True, "failed"),
        ("ldae: rank 2 of 8 was ended by SIGKILL\n", 3, True, "failed"),
        (LINE + "done in 8.2 s, of which imports took 2.4 s\n", 3, True, ""),  # its result has been deleted since
        (None, 0, True, ""),
    ],
)
def test_a_training_without_a_lock_is_told_by_its_last_words(
    log: str | None, age: float, driven: bool, word: str, tmp_path: Path
) -> None:
    run_folder(tmp_path, "pca", log=log, age=age)
    text = ""
    if driven:
        code = "import pathlib, time\nfrom ldae.runtime.locking import registered\n"
        code += "with registered(pathlib.Path('.snakemake')):\n"
        code += "    print(flush=True); time.sleep(600)"
        driver = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
        assert driver.stdout is not None
        driver.stdout.readline()
    text = status(SMOKE, tmp_path, ["pca"])
    if driven:
        driver.kill()
        driver.communicate()
    assert told(text).get("pca", "").partition(" ")[0] == word
    assert text.startswith(f"1 training at scale smoke: 1 {word or 'waiting'}")


def test_status_names_another_job_that_has_failed_but_not_one_that_may_be_running(tmp_path: Path) -> None:
    logs = tmp_path / "results/smoke/logs"
    (logs / "probe/pca").mkdir(parents=True)
    (logs / "probe/pca/seed0.log").write_text("pca: 100 of 200 images\n")
    (logs / "pixels").mkdir()
    (logs / "pixels/seed0.log").write_text("ldae: interrupted\n")
    (logs / "dataset.log").write_text("ldae: /pictures: is not a folder\n")
    (logs / "tables").mkdir()
    (logs / "tables/table3.log").write_text(f"{TRACEBACK}KeyError: 3\n")
    text = status(SMOKE, tmp_path, ["table3"])
    trainings = f"{len(TABLE3)} trainings at scale smoke: {len(TABLE3)} waiting"
    assert f"{trainings}, and 1 other job interrupted, and 2 other jobs failed" in text
    assert [" ".join(line.split()) for line in text.splitlines()[4:]] == [
        "dataset images failed ldae: /pictures: is not a folder",
        "probe raw pixels, seed 0 interrupted ldae: interrupted",
        "table3 failed KeyError: 3",
    ]
