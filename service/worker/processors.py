"""How many processors this process may use."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_processors(cgroup: Path = _CGROUP) -> int:
    """Those it may be scheduled on, or fewer where the container has a quota.

    A container limited to 2 of 64 processors sees all of them, and 64 threads in it would spend
    their time being throttled.
    """
    visible = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return visible if quota is None else max(1, min(visible, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time, from version 2 or 1 of the control groups."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except (OSError, ValueError):
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": none
        return None
    return quota if quota > 0 else None
