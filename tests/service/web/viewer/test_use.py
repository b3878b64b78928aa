from collections.abc import Callable

import pytest
from browsing import NO_PLAYWRIGHT, PHONE, PNG, choose, given, in_browser, set_threshold

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)
from playwright.sync_api import Page, expect

pytestmark = in_browser


class TestScore:
    def test_hides_and_shows_masks_labels_and_rows(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))

        for threshold, count in ((0.95, 0), (0.9, 1), (0.45, 2), (0.12, 3), (0.5, 1)):
            set_threshold(page, threshold)

            for parts in ("#masks g", "#labels .label", "#rows tr"):
                expect(page.locator(f"{parts}:not(.below)")).to_have_count(count)
            expect(page.locator("#summary")).to_contain_text(f"{count} of 3 instances shown")

    def test_stands_in_labels_and_table(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        set_threshold(page, 0)

        assert page.locator(".label").all_inner_texts() == [
            "person 0.90",
            "cat 0.45",
            "person 0.12",
        ]
        assert page.locator("#rows tr:first-child td").all_inner_texts() == [
            "0.90",
            "160 \N{MULTIPLICATION SIGN} 140",
            "20 %",
        ]


class TestHighlight:
    def test_follows_the_mouse_over_masks_but_not_over_holes(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        photo = page.locator("#photo").bounding_box()
        person = page.locator("#rows tr").first

        page.mouse.move(photo["x"] + 30, photo["y"] + 40)
        expect(person).to_have_class("lit")
        page.mouse.move(photo["x"] + 60, photo["y"] + 70)
        expect(person).not_to_have_class("lit")
        page.mouse.move(photo["x"] + 78, photo["y"] + 90)
        expect(person).to_have_class("lit")

    def test_follows_the_mouse_over_rows(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))

        page.locator("#rows tr").nth(1).hover()

        expect(page.locator("#labels .label").nth(1)).to_have_class("label lit")
        assert page.locator("#masks g.lit").count() == 1
        expect(page.locator("#masks")).to_have_class("dimmed")

    def test_stays_after_a_click_until_escape(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        photo = page.locator("#photo").bounding_box()
        cat = page.get_by_role("button", name="cat, score 0.45")

        page.mouse.click(photo["x"] + 240, photo["y"] + 80)
        page.mouse.move(5, 5)
        expect(page.locator("#rows tr").nth(1)).to_have_class("lit")
        expect(cat).to_have_attribute("aria-pressed", "true")

        page.keyboard.press("Escape")
        expect(page.locator(".lit")).to_have_count(0)
        expect(cat).to_have_attribute("aria-pressed", "false")


class TestKeyboard:
    def test_reaches_everything(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        page.locator("#key summary").focus()

        reached = []
        for _ in range(10):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("(e => e.id || e.ariaLabel || e.innerText)(document.activeElement)")
            )

        assert reached == [
            "files",
            "address-field",
            "Score",
            "drawing.png, 3 found",
            "Remove drawing.png",
            "threshold",
            "person, score 0.90",
            "Copy the answer as JSON",
            "Copy the request as curl",
            "Copy the request as Python",
        ]

    def test_moves_in_the_table_and_lights_what_it_is_on(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        set_threshold(page, 0)
        rows = page.locator("#rows tr")
        page.locator("#threshold").focus()

        page.keyboard.press("Tab")
        expect(rows.nth(0)).to_have_class("lit")
        for key, row in (
            ("ArrowDown", 1),
            ("End", 2),
            ("ArrowDown", 2),
            ("Home", 0),
            ("ArrowUp", 0),
        ):
            page.keyboard.press(key)
            expect(rows.nth(row)).to_have_class("lit")
            assert page.locator("#masks g.lit").count() == 1

        page.keyboard.press("Enter")
        page.locator("#threshold").focus()
        expect(rows.nth(0)).to_have_class("lit")

    def test_moves_the_slider(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        page.locator("#threshold").focus()

        page.keyboard.press("End")
        expect(page.get_by_text("Nothing scores that high.")).to_be_visible()
        page.keyboard.press("Home")
        expect(page.locator("#threshold-value")).to_have_text("0.00")
        expect(page.locator("#rows tr:not(.below)")).to_have_count(3)

    def test_stays_in_the_strip_when_a_photo_is_removed(self, page: Page) -> None:
        choose(page, given("first.png", PNG), given("second.png", PNG))

        page.get_by_role("button", name="Remove first.png").press("Enter")
        expect(page.get_by_role("button", name="second.png, 3 found")).to_be_focused()
        page.get_by_role("button", name="Remove second.png").press("Enter")
        expect(page.get_by_role("heading", name="a photo to see every object")).to_be_visible()
        expect(page.locator("#files")).to_be_focused()


def test_a_screen_reader_is_told_what_was_found_and_how_to_go_on(page: Page) -> None:
    choose(page, given("drawing.png", PNG))

    expect(page.get_by_role("status")).to_contain_text("drawing.png: 2 of 3 instances shown")
    expect(page.get_by_role("img", name="Masks: person 0.90, cat 0.45")).to_be_visible()
    expect(page.get_by_role("table", name="Instances, best first")).to_be_visible()
    expect(page.get_by_role("slider", name="Show from score")).to_be_visible()
    expect(page.get_by_role("textbox", name="Address of a photo")).to_be_visible()
    expect(page.get_by_role("rowheader", name="person, score 0.90")).to_be_visible()
    nameless = "button, input:not([type=hidden])"
    assert (
        page.locator(nameless).evaluate_all(
            "(all) => all.filter((e) => !(e.ariaLabel || e.textContent || e.labels?.length)).length"
        )
        == 0
    )


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system_and_can_be_read(
    open_page: Callable[..., Page], service: str, scheme: str, dark: bool
) -> None:
    page = open_page(service, color_scheme=scheme)
    choose(page, given("drawing.png", PNG))

    # Rendered, since colours may be written in any notation.
    shades = page.evaluate(
        """() => {
            const canvas = document.createElement('canvas').getContext('2d');
            const luminance = (colour) => {
                canvas.fillStyle = colour;
                canvas.fillRect(0, 0, 1, 1);
                const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
                    v /= 255;
                    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const style = (id) => getComputedStyle(document.querySelector(id));
            const on = (text, ground) => {
                const a = luminance(style(text).color);
                const b = luminance(style(ground).backgroundColor);
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            };
            return {
                ground: luminance(style('body').backgroundColor),
                contrasts: [
                    on('body', 'body'), on('#summary', '.panel'), on('thead th', 'thead th'),
                    on('.primary', '.primary'), on('.label', '.label'), on('#key summary', '.bar'),
                ],
            };
        }"""
    )

    assert (shades["ground"] < 0.1) is dark
    assert min(shades["contrasts"]) > 4.5


def test_a_phone_shows_it_all_in_its_width(open_page: Callable[..., Page], service: str) -> None:
    page = open_page(service, viewport=PHONE, device_scale_factor=2, has_touch=True, is_mobile=True)
    expect(page.get_by_text("Take a photo", exact=True)).to_be_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    for name in ("drawing.png", "another with a very long name " * 4, "third.png", "4", "5", "6"):
        choose(page, given(name, PNG))
    set_threshold(page, 0)

    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    photo = page.locator("#photo").bounding_box()
    assert photo["width"] <= PHONE["width"]
    page.locator("#rows tr").first.tap()
    expect(page.locator("#rows tr").first).to_have_class("lit")
