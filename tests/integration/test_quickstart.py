"""The quickstart's main job, with the programs under test."""

import os
import pathlib
import subprocess
import sys

import pytest
from harness.node import programs_dir

TESTS = pathlib.Path(__file__).resolve().parents[1]


def test_the_quickstart_shows_the_whole_life_of_a_task_twice():
    if not (programs_dir() / "ecs-agent").exists():
        pytest.skip(f"ecs-agent is not installed in {programs_dir()} (ECS_PROGRAMS)")
    environment = dict(os.environ, PYTHONPATH=str(TESTS))
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-m", "harness.quickstart"], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        for word in ("registered", "timeline", "********", "exit codes", "no trace is left"):
            assert word in run.stdout
