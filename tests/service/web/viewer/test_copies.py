import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from browsing import NO_PLAYWRIGHT, PNG, choose, given, in_browser, photo_host, scored_directly

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)
from playwright.sync_api import Page, expect

pytestmark = in_browser


class TestCopies:
    @pytest.fixture
    def page(self, open_page: Callable[..., Page], service: str) -> Page:
        return open_page(service, permissions=["clipboard-read", "clipboard-write"])

    def copied(self, page: Page, name: str) -> str:
        page.get_by_role("button", name=name).click()
        expect(page.locator("#toast")).to_have_text("Copied")
        return page.evaluate("navigator.clipboard.readText()")

    def test_of_json_are_the_answer_as_it_came(self, page: Page, service: str) -> None:
        choose(page, given("drawing.png", PNG))

        assert self.copied(page, "Copy the answer as JSON") == scored_directly(service, PNG).text

    def test_of_requests_give_the_same_answer_whatever_the_file_is_called(
        self, page: Page, service: str, tmp_path: Path
    ) -> None:
        name = """-it's "a" $(photo).png"""
        (tmp_path / name).write_bytes(PNG)
        choose(page, given(name, PNG))

        self.assert_both_run(page, scored_directly(service, PNG), tmp_path)

    def test_of_requests_by_address_give_the_same_answer(
        self, page: Page, service: str, tmp_path: Path
    ) -> None:
        with photo_host() as host:
            page.get_by_label("Address of a photo").fill(f"{host}/photos/open/it's.png?a=$b&c=`d`")
            page.keyboard.press("Enter")
            expect(page.locator("#rows tr")).to_have_count(3)

            self.assert_both_run(page, scored_directly(service, PNG), tmp_path)

    def assert_both_run(self, page: Page, answer: httpx.Response, folder: Path) -> None:
        def output(*command: str) -> str:
            return subprocess.run(
                command, cwd=folder, capture_output=True, check=True, text=True, timeout=20
            ).stdout

        shell = output("sh", "-c", self.copied(page, "Copy the request as curl"))
        python = output(sys.executable, "-c", self.copied(page, "Copy the request as Python"))

        assert json.loads(shell) == answer.json()
        assert python.splitlines() == [
            f"{instance['label']} {instance['score']:.2f} {instance['box']}".replace("0.90", "0.9")
            for instance in answer.json()[0]["boxes"]
        ]

    def test_name_the_variable_of_a_key_and_not_the_key(self, page: Page) -> None:
        page.locator("#key summary").click()
        page.get_by_label("Authorization: Bearer").fill("s3cret")
        page.keyboard.press("Enter")
        choose(page, given("drawing.png", PNG))

        for name in ("Copy the request as curl", "Copy the request as Python"):
            text = self.copied(page, name)
            assert "SOLOV2_API_KEY" in text
            assert "s3cret" not in text

    def test_work_where_the_page_has_no_clipboard(
        self, open_page: Callable[..., Page], service: str
    ) -> None:
        script = "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
        page = open_page(service, script=script)
        choose(page, given("drawing.png", PNG))
        page.get_by_role("button", name="Copy the request as curl").click()
        expect(page.locator("#toast")).to_have_text("Copied")

        page.get_by_label("Address of a photo").focus()
        page.keyboard.press("Control+V")

        assert page.get_by_label("Address of a photo").input_value().startswith("printf '{")
