import base64
from typing import Any

import numpy as np
import pytest
from browsing import (
    BLACK,
    BLUE,
    NO_PLAYWRIGHT,
    PNG,
    SeesColours,
    choose,
    drawing,
    given,
    in_browser,
    of_colour,
    photo_host,
    scored_directly,
    tinted,
)

from service.errors import QueueFullError

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)
from playwright.sync_api import Page, expect

pytestmark = in_browser


class TestErrors:
    def test_are_those_of_the_service_about_a_photo(self, page: Page, service: str) -> None:
        choose(page, given("good.png", PNG), given("notes.txt", b"no photo"))
        said = scored_directly(service, b"no photo").json()["message"]
        expect(page.get_by_role("alert")).to_be_hidden()

        page.get_by_role("button", name="notes.txt, failed").click()

        expect(page.get_by_role("alert")).to_contain_text("This photo was refused")
        expect(page.locator("#problem-text")).to_have_text(said)
        expect(page.locator("#found")).to_be_hidden()

    def test_are_those_of_the_service_about_a_request_and_can_be_tried_again(
        self, page: Page, sees_colours: SeesColours
    ) -> None:
        sees_colours.error = QueueFullError("300 images are waiting", 7)
        choose(page, given("drawing.png", PNG))
        expect(page.get_by_role("alert")).to_contain_text("The request failed · 429")
        expect(page.locator("#problem-text")).to_have_text("300 images are waiting (Again in 7 s.)")

        sees_colours.error = None
        page.get_by_role("button", name="Try again").click()

        expect(page.locator("#rows tr")).to_have_count(3)
        expect(page.get_by_role("alert")).to_be_hidden()

    def test_that_somebody_in_between_gives_are_told_by_their_status(self, page: Page) -> None:
        page.route("**/score", lambda route: route.fulfill(status=502, body="<html>no</html>"))

        choose(page, given("drawing.png", PNG))

        expect(page.locator("#problem-text")).to_contain_text("502")

    def test_tell_when_nobody_answers(self, page: Page) -> None:
        page.route("**/score", lambda route: route.abort())

        choose(page, given("drawing.png", PNG))

        expect(page.locator("#problem-text")).to_have_text("The service cannot be reached.")


def test_a_key_is_asked_for_when_one_is_wanted_and_sent_as_bearer(page: Page) -> None:
    def gateway(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer s3cret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"message": "the API key is missing or wrong"})

    page.route("**/score", gateway)
    choose(page, given("drawing.png", PNG))
    expect(page.locator("#problem-text")).to_have_text("the API key is missing or wrong")
    field = page.get_by_label("Authorization: Bearer")
    expect(field).to_be_focused()

    field.fill("s3cret")
    field.press("Enter")

    expect(page.locator("#rows tr")).to_have_count(3)
    expect(field).to_be_hidden()


class TestAddress:
    def test_of_a_photo_that_pages_may_read_is_shown_with_its_masks(self, page: Page) -> None:
        with photo_host() as host:
            page.get_by_label("Address of a photo").fill(f"{host}/photos/open/drawing.png")
            page.get_by_role("button", name="Score", exact=True).click()
            expect(page.locator("#strip li.scored")).to_have_count(1)
            expect(page.locator("#photo")).to_have_js_property("naturalWidth", 320)

            expected = of_colour(np.asarray(drawing()), BLACK) | of_colour(
                np.asarray(drawing()), BLUE
            )
            np.testing.assert_array_equal(tinted(page), expected)
            expect(page.locator("#notes li")).to_have_count(0)

    def test_of_another_photo_gives_masks_alone_which_is_said(self, page: Page) -> None:
        with photo_host() as host:
            page.get_by_label("Address of a photo").fill(f"{host}/photos/closed/drawing.png")
            page.keyboard.press("Enter")
            expect(page.locator("#strip li.scored")).to_have_count(1)

            expect(page.locator("#notes")).to_contain_text("does not let this page show it")
            expect(page.locator("#photo")).to_be_hidden()
            size = page.locator("#rows tr:first-child td").nth(1)
            expect(size).to_have_text("50 % \N{MULTIPLICATION SIGN} 70 %")
            frame = page.locator("#frame").bounding_box()
            assert page.locator("#masks").bounding_box()["width"] == pytest.approx(
                frame["width"], abs=2
            )

    def test_that_leads_to_no_photo_is_answered_in_the_services_words(
        self, page: Page, service: str
    ) -> None:
        address = "http://169.254.169.254/photos/"

        page.get_by_label("Address of a photo").fill(address)
        page.keyboard.press("Enter")

        expect(page.locator("#problem-text")).to_have_text(
            scored_directly(service, address).json()["message"]
        )


HAND_OVER = """([base64, kind]) => {
    const transfer = new DataTransfer();
    if (kind.startsWith('http')) transfer.setData('text/plain', kind);
    else {
        const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], 'drawing.png', { type: 'image/png' }));
    }
    const event = kind === 'drop'
        ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
    return event.defaultPrevented;
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(page: Page, way: str) -> None:
    assert page.evaluate(HAND_OVER, [base64.b64encode(PNG).decode(), way])

    expect(page.locator("#rows tr")).to_have_count(3)
    expect(page.locator("#name")).to_have_text("drawing.png")


def test_an_address_can_be_pasted(page: Page) -> None:
    with photo_host() as host:
        assert page.evaluate(HAND_OVER, ["", f"{host}/photos/open/drawing.png"])

        expect(page.locator("#rows tr")).to_have_count(3)


def test_the_policy_stops_what_is_not_the_pages_own(page: Page, failures: list[str]) -> None:
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            try { script.textContent = 'document.title = "inline"'; } catch {}
            document.head.append(script);
            const style = document.createElement('style');
            style.textContent = 'body { display: none }';
            document.head.append(style);
            fetch('https://elsewhere.invalid/').catch(() => {});
        }"""
    )
    expect(page.locator("body")).to_be_visible()

    stopped = {text.split()[1] for text in failures}
    failures.clear()
    assert page.title() == "SOLOv2 viewer"
    assert stopped == {"require-trusted-types-for", "style-src-elem", "connect-src"}
