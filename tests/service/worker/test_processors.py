import os
from pathlib import Path

import pytest

from service.worker.processors import available_processors


@pytest.fixture(autouse=True)
def sixteen_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))


def write(folder: Path, **files: str | bytes) -> Path:
    (folder / "cpu").mkdir()
    names = {"v2": "cpu.max", "quota": "cpu/cpu.cfs_quota_us", "period": "cpu/cpu.cfs_period_us"}
    for key, text in files.items():
        (folder / names[key]).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize(
    ("limit", "processors"),
    [
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 16),
        ("max 100000\n", 16),
        ("0 100000", 16),
        ("100000 0", 16),
        ("", 16),
        ("a b c", 16),
        (b"\xff\xfe", 16),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, limit: str | bytes, processors: int) -> None:
    assert available_processors(write(tmp_path, v2=limit)) == processors


@pytest.mark.parametrize(
    ("quota", "period", "processors"),
    [
        ("300000\n", "100000\n", 3),
        ("-1\n", "100000\n", 16),
        ("300000", "0", 16),
        ("none", "100000", 16),
        (b"\xff", "100000", 16),
    ],
)
def test_a_quota_of_version_1(
    tmp_path: Path, quota: str | bytes, period: str, processors: int
) -> None:
    assert available_processors(write(tmp_path, quota=quota, period=period)) == processors


def test_version_2_counts_where_both_are_there(tmp_path: Path) -> None:
    cgroup = write(tmp_path, v2="200000 100000", quota="300000", period="100000")

    assert available_processors(cgroup) == 2


def test_no_control_groups_and_half_of_version_1_are_no_quota(tmp_path: Path) -> None:
    assert available_processors(tmp_path / "nothing") == 16
    assert available_processors(write(tmp_path, quota="100000")) == 16


def test_this_machine_has_a_processor() -> None:
    assert available_processors() >= 1
