from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from service.cli.options import connect
from service.client import ScoreError
from service.dispatch.dispatcher import Dispatcher
from service.settings import Settings


@pytest.mark.parametrize("given", ["s3cret", None])
def test_a_client_sends_the_key_of_the_settings(
    serve_in_thread: Callable[[Settings, Dispatcher], AbstractContextManager[str]],
    dispatcher: Dispatcher,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
) -> None:
    if given is not None:
        monkeypatch.setenv("SOLOV2_API_KEY", given)
    photo = b"\xff\xd8 no photo at all"

    with serve_in_thread(Settings(api_key="s3cret"), dispatcher) as url, connect(url) as client:
        status = "400" if given else "401"
        with pytest.raises(ScoreError, match=f"answered {status}"):
            client.score([photo])
