"""A batch on many machines: one reads, all score, the first writes.

The images come to the machines through Ray, so that nothing need be on a shared disk: tables,
archives and files are read on the machine that runs the command, URLs where they are scored.
"""

import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from service.batch.engine import Engine
from service.batch.errors import BatchError
from service.batch.results import Names, Result, ResultFile
from service.batch.scoring import read_file
from service.batch.sources import Item
from service.errors import BadImageError
from service.logs import configure_logging
from service.settings import Settings

# Of images that go to an actor together.
_MAX_IMAGES = 64
_MAX_BYTES = 32 << 20
_READERS = 16  # threads; on a network disk each waits most of the time

# A row of a dataset holds what goes together. Of an image: its bytes, or text that stands for it,
# or why there is none. One without a name says why nothing can come any more.
_ITEM = {
    "name": pa.string(),
    "data": pa.large_binary(),
    "text": pa.large_string(),
    "error": pa.string(),
}
_RESULT = {"name": pa.string(), "answer": pa.large_binary(), "error": pa.string()}

Row = dict[str, Any]


def run_batch(
    items: Callable[[], Iterator[Item]],
    results: ResultFile,
    settings: Settings,
    note: Callable[[Result], None],
    address: str,
) -> None:
    """Score what has no result yet on the machines of a Ray cluster, which must know this package.

    A machine that is lost takes nothing with it: its images are scored again. What is scored twice
    is written once.

    Args:
        items: The input, as ``Source.items``.
        results: Gets a line as soon as an image is done, so in no particular order.
        settings: Of the service, for the workers of every machine.
        note: Called after each line.
        address: Of the cluster, to which this machine belongs; ``auto`` finds it.

    Raises:
        BatchError: The cluster cannot be reached, the input ends in an error, or no workers can go
            on.
    """
    paths = {"weights": settings.weights, "azureml_model_dir": settings.azureml_model_dir}
    absolute = {name: path.absolute() for name, path in paths.items() if path}
    settings = settings.model_copy(update=absolute)  # other processes stand elsewhere
    with _connected(address):
        rows = _rows(_scored(_Items(items, results.names, settings), settings))
        try:
            for row in rows:
                if row["name"] is None:
                    raise BatchError(row["error"])
                if results.claim(row["name"]):
                    results.append(result := Result(**row))
                    note(result)
        except RayError as error:
            raise BatchError(f"the cluster gave up: {_last_line(error)}") from error


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    if "://" in address:
        raise BatchError(f"{address}: run this on a machine of the cluster, with --address auto")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BatchError(f"no Ray cluster at {address}: {_last_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _scored(source: "_Items", settings: Settings) -> Dataset:
    context = DataContext.get_current()
    context.target_max_block_size = 1  # byte: every row is a block, and so a task, of its own
    context.enable_progress_bars = False
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    read: Dataset = ray.data.read_datasource(
        source, override_num_blocks=1, num_cpus=0, label_selector=here
    )
    gpus = 1 if _wants_gpu(settings) else 0
    return read.map_batches(
        Scorer,
        fn_constructor_args=(settings,),
        batch_size=None,
        batch_format="pyarrow",
        num_gpus=gpus,
        num_cpus=0 if gpus else 1,
        compute=ActorPoolStrategy(min_size=1, max_tasks_in_flight_per_actor=2),
    )


def _wants_gpu(settings: Settings) -> bool:
    if settings.devices == ("auto",):
        return bool(ray.cluster_resources().get("GPU"))
    return settings.devices != ("cpu",)


def _rows(scored: Dataset) -> Iterator[Row]:
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from _unpacked(table)


def _packed(rows: list[Row], fields: dict[str, pa.DataType]) -> pa.Table:
    """One row that holds all of them."""
    return pa.table({"rows": pa.array([rows], pa.list_(pa.struct(list(fields.items()))))})


def _unpacked(table: pa.Table) -> list[Row]:
    if not table.num_rows:  # nothing came: then it has no columns either
        return []
    return [row for rows in table.column("rows").to_pylist() for row in rows]


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2][:300]


class _Items(Datasource):  # type: ignore[misc]  # Any to mypy
    """Items that have no result yet, with the content of their files.

    All come from one task on the machine of the command, in one order: where blocks are lost, the
    task gives the very same ones again.
    """

    def __init__(
        self, items: Callable[[], Iterator[Item]], names: Names, settings: Settings
    ) -> None:
        super().__init__()
        self._items = items
        self._names = names
        self._settings = settings
        self._folder = Path.cwd()

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(self._tables, unknown)]

    def _tables(self) -> Iterator[pa.Table]:
        with contextlib.chdir(self._folder):  # where relative paths begin
            for rows in _grouped(self._rows()):
                yield _packed(rows, _ITEM)

    def _rows(self) -> Iterator[Row]:
        pending = (item for item in self._items() if self._names.claim(item.name))
        try:
            yield from _read_ahead(pending, self._settings)
        except BatchError as error:
            yield {"error": str(error)}
        except OSError as error:
            yield {"error": f"cannot read {error.filename} ({error.strerror})"}


def _grouped(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.get("data") or row.get("text") or "")
        if len(group) == _MAX_IMAGES or size >= _MAX_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read_ahead(items: Iterable[Item], settings: Settings) -> Iterator[Row]:
    """Rows in the order of the items, several files being read at a time."""
    read = partial(_row, settings=settings)
    with ThreadPoolExecutor(_READERS) as readers:
        reading = deque[Any]()
        for item in items:
            reading.append(readers.submit(read, item))
            if len(reading) == _READERS:
                yield reading.popleft().result()
        for row in reading:
            yield row.result()


def _row(item: Item, settings: Settings) -> Row:
    try:
        match item.content:
            case Path() as path:
                return {"name": item.name, "data": read_file(path, settings).data}
            case bytes() as data:
                return {"name": item.name, "data": data}
            case str() as text:
                return {"name": item.name, "text": text}
            case error:
                raise error
    except BadImageError as error:
        return {"name": item.name, "error": str(error)}


class Scorer:
    """The workers of the device that Ray gives to one actor."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(sys.stderr)
        self._settings = settings
        self._engine: Engine | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = _unpacked(table)
        ended = [{"error": row["error"]} for row in rows if row["name"] is None]
        items = [Item(row["name"], _content(row)) for row in rows if row["name"] is not None]
        try:
            # Not before: what is wrong with the model would be told as the end of an actor.
            self._engine = self._engine or Engine(self._settings)
            results = [asdict(result) for result in self._engine.score(items)]
        except BatchError as error:
            results = [{"error": str(error)}]
        return _packed([*results, *ended], _RESULT)


def _content(row: Row) -> bytes | str | BadImageError:
    if row["error"] is not None:
        return BadImageError(row["error"])
    data: bytes | None = row["data"]
    text: str = row["text"]
    return text if data is None else data
