import subprocess
import sys

from starlette.testclient import TestClient

from service.settings import Settings
from service.web.app import create_app


def test_the_dispatcher_lives_as_long_as_the_application(dispatcher) -> None:
    with TestClient(create_app(Settings(), dispatcher)):
        assert dispatcher.events == ["started"]

    assert dispatcher.events == ["started", "stopped"]


def test_the_http_process_loads_neither_torch_nor_the_model() -> None:
    code = (
        "import sys, service.web.server;"
        "print({'torch', 'model', 'cv2', 'numpy'} & {n.split('.')[0] for n in sys.modules})"
    )

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert output.stdout.strip() == b"set()"
