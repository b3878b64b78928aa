import base64
import csv
import io
import os
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.batch.errors import BatchError
from service.batch.sources import Item, Source, open_source
from service.errors import BadImageError

LIMIT = 1000


def source_of(given: object, column: str = "image") -> Source:
    return open_source(str(given), column=column, max_image_bytes=LIMIT)


def contents(given: object, column: str = "image") -> dict[str, object]:
    """What each name stands for; two items of one name would be a mistake."""
    items = list(source_of(given, column).items())
    found: dict[str, object] = {item.name: item.content for item in items}
    assert len(found) == len(items)
    return found


def write(path: Path, content: bytes = b"image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def test_a_folder_gives_its_pictures_and_those_below_by_relative_path(tmp_path: Path) -> None:
    pictures = {name: write(tmp_path / name) for name in ("a.jpg", "x/b.PNG", "x/y/c.webp")}
    write(tmp_path / "x" / "notes.txt")
    (tmp_path / "x" / "round").symlink_to(tmp_path)

    assert contents(tmp_path) == pictures
    assert source_of(tmp_path).count() == 3


def test_a_file_name_that_is_no_text_is_told_apart_and_written(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    write(path)

    assert contents(tmp_path) == {"\\xff.jpg": path}


def test_a_glob_gives_what_it_matches(tmp_path: Path) -> None:
    path = write(tmp_path / "x" / "a.jpg")
    write(tmp_path / "x" / "b.png")

    assert contents(tmp_path / "**" / "*.jpg") == {str(path): path}


def test_an_image_alone_is_an_input_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg")

    assert contents(path) == {"a.jpg": path}


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"none\.txt: no such file or folder"):
        source_of(tmp_path / "none.txt")


def test_a_list_names_paths_beside_it_and_urls(tmp_path: Path) -> None:
    lines = "\ufeffa.jpg\r\n\n/data/b b.jpg\nhttps://example.com/c.jpg\n"
    path = write(tmp_path / "list.txt", lines.encode())

    assert contents(path) == {
        "a.jpg": tmp_path / "a.jpg",
        "/data/b b.jpg": Path("/data/b b.jpg"),
        "https://example.com/c.jpg": "https://example.com/c.jpg",
    }
    assert source_of(path).count() == 3


def test_a_list_comes_from_standard_input_as_often_as_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\nb.jpg")))

    source = source_of("-")

    assert source.count() == 2
    assert list(source.items()) == [Item(name, Path(name)) for name in ("a.jpg", "b.jpg")]


@pytest.mark.parametrize("content", [b"a.jpg\nPK\0\0", b"a.jpg\n" + b"x" * 10_000])
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "photos.zip", content)

    with pytest.raises(BatchError, match=r"photos\.zip: line 2 is neither a path nor a URL"):
        contents(path)


def test_a_table_holds_base64_paths_and_urls(tmp_path: Path) -> None:
    photo = base64.b64encode(bytes(300)).decode()
    cells = [photo, f"data:image/jpeg;base64,{photo}", "a.jpg", "http://x.org/a", "known", ""]
    known = write(tmp_path / "known")
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "image"], *([n, cell] for n, cell in enumerate(cells))])

    assert contents(path) == {
        "0": photo,
        "1": cells[1],
        "2": tmp_path / "a.jpg",
        "3": "http://x.org/a",
        "4": known,
        "5": "",
    }


def test_rows_that_are_broken_cost_no_other(tmp_path: Path) -> None:
    huge = "x" * (2 * LIMIT + 1)
    path = write(tmp_path / "table.csv", f"id,image\n1\n2,{huge}\n\n3,a.jpg\n".encode())

    found = contents(path)

    assert found["0"] == ""
    assert isinstance(found["1"], BadImageError)
    assert found["2"] == tmp_path / "a.jpg"


def test_another_column_can_be_named_and_a_missing_one_is(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", b"id,photo\n1,a.jpg\n")

    assert contents(path, "photo") == {"0": tmp_path / "a.jpg"}
    with pytest.raises(BatchError, match="no column 'image' among id, photo"):
        contents(path)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path / "table.parquet")

    with pytest.raises(BatchError, match=r"pip install 'solov2\[batch\]'"):
        source_of(path)


def test_parquet_holds_bytes_text_and_the_structs_of_hugging_face(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "image": [b"\xff\xd8", None, b"\x89"],
        "text": ["a.jpg", "http://x.org/a", None],
        "struct": [{"bytes": b"\xff", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None],
    }
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table(columns), path)

    assert contents(path) == {"0": b"\xff\xd8", "1": "", "2": b"\x89"}
    assert contents(path, "text") == {"0": tmp_path / "a.jpg", "1": "http://x.org/a", "2": ""}
    assert contents(path, "struct") == {"0": b"\xff", "1": tmp_path / "b.jpg", "2": ""}
    assert source_of(path).count() == 3


def test_a_parquet_file_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"image": [bytes(100), bytes(200)]}), path)
    path.write_bytes(path.read_bytes()[:4] + b"\xff" * 30 + path.read_bytes()[34:])

    with pytest.raises(BatchError, match="the file is damaged"):
        contents(path)


def test_what_is_no_parquet_file_or_has_no_such_column_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"photo": [b"a"]}), path)

    with pytest.raises(BatchError, match="no column 'image' among photo"):
        source_of(path)
    with pytest.raises(BatchError, match="not a Parquet file"):
        source_of(write(path, b"nothing of the kind"))


@pytest.mark.parametrize(("suffix", "mode", "count"), [("tar", "w", 2), ("tar.gz", "w:gz", None)])
def test_shards_give_their_pictures_in_order(
    tmp_path: Path, suffix: str, mode: str, count: int | None
) -> None:
    one = write_tar(tmp_path / f"1.{suffix}", {"a.jpg": b"a", "a.json": b"{}"}, mode)
    two = write_tar(tmp_path / f"2.{suffix}", {"x/a.png": b"b"}, mode)

    shards = tmp_path / f"*.{suffix}"
    assert list(contents(shards).items()) == [(f"{one}!a.jpg", b"a"), (f"{two}!x/a.png", b"b")]
    assert source_of(shards).count() == count
    assert contents(one) == {f"{one}!a.jpg": b"a"}


def test_a_member_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "1.tar", {"a.jpg": bytes(LIMIT + 1), "b.jpg": b"b"})

    found = contents(shard)

    assert str(found[f"{shard}!a.jpg"]) == "the image has 1001 bytes, more than the limit of 1000"
    assert found[f"{shard}!b.jpg"] == b"b"


def test_a_shard_that_breaks_off_does_not_keep_the_next_one_back(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "1.tar", {"a.jpg": b"a", "b.jpg": bytes(LIMIT)})
    two = write_tar(tmp_path / "2.tar", {"c.jpg": b"c"})
    one.write_bytes(one.read_bytes()[:1600])

    found = contents(tmp_path / "*.tar")

    assert [*found] == [f"{one}!a.jpg", str(one), f"{two}!c.jpg"]
    assert isinstance(found[str(one)], BadImageError)
