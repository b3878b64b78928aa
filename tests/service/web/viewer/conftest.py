"""The page in a real browser, in front of the real HTTP process, decoder and encoder."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browsing import CHROMIUM, DESKTOP, FLAGS, SeesColours

from service.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="package")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import expect, sync_playwright  # not installed everywhere

    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def sees_colours() -> SeesColours:
    return SeesColours()


@pytest.fixture(scope="package")
def service(serve_in_thread: Callable, sees_colours: SeesColours) -> Iterator[str]:
    with serve_in_thread(Settings(url_allow_private=True), sees_colours) as url:
        yield url


@pytest.fixture
def failures() -> list[str]:
    """What went wrong in the page; a test that expects something takes it out."""
    return []


@pytest.fixture
def open_page(browser: "Browser", failures: list[str]) -> Iterator[Callable[..., "Page"]]:
    """Opens the page. It may fail in nothing, and ask for nothing but what is its own."""
    contexts, asked = [], set()

    def opened(url: str, *, script: str = "", **options: Any) -> "Page":
        context = browser.new_context(**({"viewport": DESKTOP} | options))
        contexts.append(context)
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (e) => console.error('POLICY', e.violatedDirective, e.blockedURI));" + script
        )
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda m: failures.append(m.text) if "POLICY" in m.text else None)
        page.on("request", lambda request: asked.add(request.url.removeprefix(url)))
        page.goto(f"{url}/viewer")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert failures == []
    own = {"/viewer", "/score"}
    others = {path for path in asked if path not in own and not path.startswith("/viewer/")}
    assert all(path.startswith("blob:") or "/photos/" in path for path in others)


@pytest.fixture
def page(open_page: Callable[..., "Page"], service: str, sees_colours: SeesColours) -> "Page":
    sees_colours.error = None
    return open_page(service)
