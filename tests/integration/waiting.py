"""Waiting for what must come, with a deadline."""

import time


def wait_for(condition, seconds=20, what="the condition"):
    """Poll condition() until it is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true within {seconds} s")
