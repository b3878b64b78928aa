import json
import resource
from pathlib import Path

import pytest

from service.batch.errors import BatchError
from service.batch.results import Result, ResultFile

GOOD = Result("a/b.jpg", b'{"boxes":[]}')
BAD = Result('quo"te\\.jpg', error="the image is empty")


def names(path: Path) -> list[str]:
    return [json.loads(line)["image"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_a_line_is_the_object_of_score_with_the_name_before_it() -> None:
    assert GOOD.line() == b'{"image":"a/b.jpg","boxes":[]}'
    assert json.loads(BAD.line()) == {"image": 'quo"te\\.jpg', "error": "the image is empty"}


def test_each_line_is_in_the_file_at_once(path: Path) -> None:
    with ResultFile(path) as results:
        results.append(GOOD)

        assert path.read_bytes() == GOOD.line() + b"\n"


def test_names_that_are_there_already_are_not_claimed_again(path: Path) -> None:
    with ResultFile(path) as results:
        results.append(GOOD)
        results.append(BAD)

    with ResultFile(path) as results:
        assert results.found == 2
        assert [results.claim(name) for name in (GOOD.name, BAD.name, "new", "new")] == [
            *(False, False, True, False)
        ]


@pytest.mark.parametrize("torn", [b'{"image":"c.jpg","bo', b'{"image":"c.jpg","boxes":[]}', b"{"])
def test_a_torn_last_line_is_cut_off_and_its_image_claimed_again(path: Path, torn: bytes) -> None:
    path.write_bytes(GOOD.line() + b"\n" + torn)

    with ResultFile(path) as results:
        assert results.claim("c.jpg")
        results.append(Result("c.jpg", b'{"boxes":[1]}'))

    assert names(path) == ["a/b.jpg", "c.jpg"]


def test_overwrite_forgets_what_was_there(path: Path) -> None:
    path.write_bytes(GOOD.line() + b"\n")

    with ResultFile(path, overwrite=True) as results:
        assert results.claim(GOOD.name)

    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", [b"notes\n", b'{"boxes":[]}\n', b'{"image":"a"}\n', b"\n"])
def test_a_file_of_something_else_is_left_alone(path: Path, line: bytes) -> None:
    path.write_bytes(GOOD.line() + b"\n" + line)

    with pytest.raises(BatchError, match="line 2 is no result"):
        ResultFile(path)

    assert path.read_bytes() == GOOD.line() + b"\n" + line


def test_two_processes_do_not_write_one_file(path: Path) -> None:
    with ResultFile(path), pytest.raises(BatchError, match="written by another process"):
        ResultFile(path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=f"cannot write {tmp_path} "):
        ResultFile(tmp_path)


def test_a_device_is_not_read_for_results_for_ever() -> None:
    with pytest.raises(BatchError, match="/dev/zero is not a regular file"):
        ResultFile(Path("/dev/zero"))


def test_a_line_for_which_there_is_no_room_ends_the_batch_and_is_cut_off(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ResultFile(path) as results:
        results.append(GOOD)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
        try:
            with pytest.raises(BatchError, match="File too large"):
                results.append(BAD)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with ResultFile(path) as results:
        results.append(BAD)

    assert names(path) == [GOOD.name, BAD.name]
