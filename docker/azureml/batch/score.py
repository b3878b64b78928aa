"""The scoring script of a batch deployment. All of it is in the image, as part of the package."""

from service.batch.azure import init, run, shutdown

__all__ = ["init", "run", "shutdown"]
