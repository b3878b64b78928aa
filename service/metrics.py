"""What operators can count and measure, in the words of Prometheus."""

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_PIXELS = (1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 2e7, 5e7)
_OBJECTS = (0, 1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """The metrics of one application, in a registry of their own. Seconds, bytes and pixels."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # One more series for each, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]

        self.requests = self._counter("requests", "Requests answered", "code", "reason")
        self.request_seconds = self._histogram(
            "request_duration_seconds", "From the first byte of a request to its answer", _SECONDS
        )
        self.stage_seconds = self._histogram(
            "stage_duration_seconds",
            "Stages: read, parse, images and score of a request; queue, decode and encode of an "
            "image; infer of a batch",
            _SECONDS,
            "stage",
        )
        self.in_flight = self._gauge("inflight", "Requests being answered")
        self.image_pixels = self._histogram("image_pixels", "Width times height of images", _PIXELS)
        self.objects = self._histogram("objects", "Instances found in an image", _OBJECTS)

        self.queue_depth = self._gauge("queue_depth", "Images waiting for a worker", "bucket")
        self.queue_bytes = self._gauge("queue_bytes", "Bytes of images admitted and not answered")
        self.rejected = self._counter(
            "rejected", "Requests refused, or images not scored in time", "reason"
        )
        self.cancelled = self._counter(
            "cancelled", "Images whose client left, or whose request had failed already", "where"
        )

        self.batch_size = self._histogram("batch_size", "Images on a device at once", _BATCH_SIZES)
        self.batch_padding = self._histogram(
            "batch_padding_ratio", "Share of a batch's canvases that is no image", _RATIOS
        )
        self.out_of_memory = self._counter("oom", "Times a device had too little memory")
        self.batch_retries = self._counter("batch_retries", "Parts of failed batches run again")
        self.worker_restarts = self._counter("worker_restarts", "Workers replaced", "device")
        self.device_memory = self._gauge(
            "device_memory_bytes", "The most a device's worker has allocated", "device"
        )
        self.workers = self._gauge("workers", "Workers there should be")
        self.workers_ready = self._gauge("workers_ready", "Workers that take images")
        self.ready = self._gauge("ready", "1 while new clients are welcome")
        build = self._gauge("build_info", "Always 1; the label says what runs", "version")
        build.labels(version("solov2")).set(1)

    def exposition(self) -> bytes:
        """All of them, as a scraper reads them: ``CONTENT_TYPE``."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"solov2_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"solov2_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"solov2_{name}", text, labels, buckets=buckets, registry=self._registry)
