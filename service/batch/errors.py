"""Why a batch cannot begin or go on."""


class BatchError(Exception):
    """No image is at fault; the text is one line for whoever started the batch."""
