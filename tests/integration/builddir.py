"""Where the programs under test are: $ECS_BUILD_DIR, else the current directory, else the source tree."""

import os
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def program(path):
    """The built program at this path of the build tree; the test is skipped where it is not built."""
    places = [os.environ.get("ECS_BUILD_DIR"), os.getcwd(), TOP]
    for place in filter(None, places):
        found = Path(place) / path
        if os.access(found, os.X_OK) and found.is_file():
            return str(found.resolve())
    pytest.skip(f"{path} is not built (ECS_BUILD_DIR, make check)")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
