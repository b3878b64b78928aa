"""Images -> results: many on their way at once, by the workers that the service has."""

import asyncio
import contextlib
import itertools
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from service.batch.errors import BatchError
from service.batch.results import Result, ResultFile
from service.batch.sources import Item
from service.dispatch.dispatcher import Dispatcher, LocalDispatcher
from service.errors import BadImageError, ServiceError, UnavailableError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.budget import Account, ByteBudget
from service.web.fetch import MAX_DOWNLOADS, Fetcher
from service.web.images import URL, check_image, check_size, read_image

# Nobody waits for one image of a batch. What ends those that never would be done is the watchdog
# of the workers.
_NO_DEADLINE_MS = 7 * 24 * 3600 * 1000

_ASK_AGAIN_S = 0.05

Note = Callable[[Result], None]


class SupervisingDispatcher(Dispatcher, Protocol):
    """One that may give up for good, and then says why."""

    @property
    def failure(self) -> str | None: ...


MakeDispatcher = Callable[[Settings], SupervisingDispatcher]


async def run_batch(
    items: Iterator[Item],
    results: ResultFile,
    settings: Settings,
    note: Note,
    make_dispatcher: MakeDispatcher = LocalDispatcher,
) -> None:
    """Score what has no result yet. No model is loaded where nothing is left to do.

    Args:
        items: Read in another thread.
        results: Gets a line as soon as an image is done, so in no particular order.
        settings: Of the service; its limit of images and bytes that may wait bounds the memory.
        note: Called after each line.
        make_dispatcher: Starts the workers.

    Raises:
        BatchError: The input ends in an error, or the workers cannot go on.
    """

    def save(result: Result) -> None:
        results.append(result)
        note(result)

    pending = (item for item in items if results.claim(item.name))
    first = await asyncio.to_thread(_next, pending)
    if first is None:
        return
    async with open_scorer(settings, make_dispatcher) as scorer:
        await scorer.score(itertools.chain([first], pending), save)


@asynccontextmanager
async def open_scorer(
    settings: Settings, make_dispatcher: MakeDispatcher = LocalDispatcher
) -> AsyncIterator["BatchScorer"]:
    """Workers that are ready, and are stopped at the end.

    Raises:
        BatchError: None can be had.
    """
    settings = settings.model_copy(update={"scoring_timeout_ms": _NO_DEADLINE_MS})
    dispatcher = make_dispatcher(settings)
    fetcher = Fetcher(settings)
    with ByteBudget(sys.maxsize).account() as account:
        scorer = BatchScorer(settings, dispatcher, fetcher, account)
        await dispatcher.start()
        try:
            await scorer.wait_for_workers()
            yield scorer
        finally:
            await dispatcher.stop()
            await fetcher.aclose()


class BatchScorer:
    """All that turns items into results."""

    def __init__(
        self,
        settings: Settings,
        dispatcher: SupervisingDispatcher,
        fetcher: Fetcher,
        account: Account,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._fetcher = fetcher
        self._account = account
        # As many as run at a time: those that wait for their turn would run out of their time.
        self._downloads = asyncio.Semaphore(MAX_DOWNLOADS)

    async def score(self, items: Iterator[Item], note: Note) -> None:
        """Tell ``note`` of each image once it is done."""
        feed = _Feed(items, self._settings)
        parts = [
            asyncio.create_task(self._score_all(feed, note))
            for _ in range(self._settings.max_queue_images)
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)

    async def wait_for_workers(self) -> None:
        """Return when images are taken, be it again.

        Raises:
            BatchError: They never will be.
        """
        while self._dispatcher.health().refusing is not None:
            if self._dispatcher.failure is not None:
                raise BatchError(self._dispatcher.failure)
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _score_all(self, feed: "_Feed", note: Note) -> None:
        while (item := await feed.take()) is not None:
            held = feed.size_of(item)
            try:
                image = await self._read(item)
                feed.give_back(held - len(image.data))
                held = len(image.data)
                result = Result(item.name, await self._answer(image))
            except ServiceError as error:
                result = Result(item.name, error=str(error))
            feed.give_back(held)
            note(result)

    async def _read(self, item: Item) -> EncodedImage:
        match item.content:
            case Path() as path:
                return await asyncio.to_thread(read_file, path, self._settings)
            case bytes() as data:
                return await asyncio.to_thread(check_image, data, self._settings)
            case str() as text:
                async with self._downloads if URL.match(text) else contextlib.nullcontext():
                    return await read_image(text, self._settings, self._fetcher, self._account)
            case error:
                raise error

    async def _answer(self, image: EncodedImage) -> bytes:
        """That all workers are being replaced is no fault of the image: it is sent again."""
        while True:
            await self.wait_for_workers()
            with contextlib.suppress(UnavailableError):
                [answer] = self._dispatcher.submit([image])
                return await answer


class _Feed:
    """Hands out items one by one, for as long as there is room for their bytes."""

    def __init__(self, items: Iterator[Item], settings: Settings) -> None:
        self._items = items
        self._settings = settings
        self._free = settings.max_queue_bytes
        self._more_room = asyncio.Event()
        self._turn = asyncio.Lock()

    async def take(self) -> Item | None:
        """The next; one that is larger than all the room comes alone."""
        async with self._turn:
            item = await asyncio.to_thread(_next, self._items)
            if item is None:
                return None
            size = self.size_of(item)
            while size > self._free < self._settings.max_queue_bytes:
                self._more_room.clear()
                await self._more_room.wait()
            self._free -= size
            return item

    def give_back(self, size: int) -> None:
        self._free += size
        self._more_room.set()

    def size_of(self, item: Item) -> int:
        """Bytes in memory, at most."""
        match item.content:
            case bytes() as data:
                return len(data)
            case str() as text if not URL.match(text):
                return len(text)
            case BadImageError():
                return 0
            case _:
                return self._settings.max_image_bytes


def _next(items: Iterator[Item]) -> Item | None:
    try:
        return next(items, None)
    except OSError as error:
        raise BatchError(f"cannot read {error.filename} ({error.strerror})") from error


def read_file(path: Path, settings: Settings) -> EncodedImage:
    """An image file, judged by its size before it is read.

    Raises:
        BadImageError: It cannot be read, or is no image that is taken.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadImageError("not a file")
        check_size(status.st_size, settings.max_image_bytes)
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(error.strerror or "the file cannot be read") from error
    return check_image(data, settings)
