"""The page in a browser: picking, refining, scenes, cases, by mouse, keyboard and on a phone."""

import os
import re
import time
import zipfile
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
pytestmark = pytest.mark.skipif(
    not CHROMIUM.is_file(), reason="needs chromium (Debian: apt-get install chromium)"
)
# The page may be read on a slow line: what it loads before it shows something.
PAGE_BYTES = 200_000
expect = sync_api.expect
# Of one step; the tests share their cores.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: line.type == "error" and problems.append(line.text))
    opened.on("response", lambda answer: answer.status >= 500 and problems.append(answer.url))
    # Nothing comes from elsewhere.
    opened.on(
        "request",
        lambda request: (
            request.url.startswith((address, "blob:", "data:")) or problems.append(request.url)
        ),
    )
    opened.goto(address)
    expect(opened.locator("#strip button").first).to_be_visible()
    expect(opened.locator("#picker .person").first).to_be_visible()
    yield opened
    context.close()
    # What the server refuses, the browser logs, too.
    assert [text for text in problems if "status of 4" not in text] == []


def pick_first(page):
    page.locator("#picker .person").first.click()
    expect(page.locator("#grid .card[data-person]").first).to_be_visible()


def similarities(page) -> list[float]:
    cards = page.locator("#grid .card[data-person]")
    return [float(card.get_attribute("data-similarity")) for card in cards.all()]


def test_pick_and_refine(page):
    pick_first(page)
    before = similarities(page)
    assert before == sorted(before, reverse=True) and before[0] == pytest.approx(1, abs=1e-3)
    last = page.locator("#grid .card[data-person]").last
    wrong = last.get_attribute("data-person")
    last.locator("[data-action=wrong]").click()
    expect(page.locator("#negatives li")).to_have_count(1)
    expect(page.locator(f'#grid [data-person="{wrong}"]')).to_have_class(re.compile("rejected"))
    assert similarities(page)[-1] < before[-1]
    page.locator("#clear").click()
    expect(page.locator("#grid .card")).to_have_count(0)


def test_filters_and_nobody(page):
    page.locator("#browse select").select_option("yard")
    page.get_by_role("button", name="Show scenes").click()
    pick_first(page)
    page.get_by_role("checkbox", name="gate").check()
    cards = page.locator("#grid .card[data-person] .facts")
    expect(cards.first).to_contain_text("gate")
    expect(cards.filter(has_text="yard")).to_have_count(0)
    expect(page.locator("#verdict-text")).to_contain_text("above the threshold")
    page.locator("#slider").fill("100")
    expect(page.locator("#verdict")).to_have_class(re.compile("nobody"))


def test_scene_of_a_hit_and_seconds_around(page):
    page.locator("#browse select").select_option("yard")
    page.get_by_role("button", name="Show scenes").click()
    pick_first(page)
    page.locator("#grid [data-action=open]").first.click()
    dialog = page.locator("#scene-dialog")
    expect(dialog.locator(".person.hit")).to_be_visible()
    title = page.locator("#dialog-title").inner_text()
    page.locator("#seconds").fill("2")
    expect(page.locator("#dialog-title")).not_to_have_text(title)
    dialog.locator(".person").first.click()
    expect(dialog).not_to_be_visible()
    expect(page.locator("#positives li")).to_have_count(1)


def test_time_line(page):
    """One line per camera with times; a dot opens its scene."""
    page.locator("#browse select").select_option("yard")
    page.get_by_role("button", name="Show scenes").click()
    pick_first(page)
    page.get_by_role("checkbox", name="one hit per appearance").uncheck()
    tracks = page.locator("#timeline .track")
    expect(tracks).to_have_count(1)
    expect(tracks).to_contain_text("yard")
    expect(page.locator("#timeline .dot")).to_have_count(2)
    page.locator("#timeline .dot").last.click()
    expect(page.locator("#scene-dialog .person.hit")).to_be_visible()


def test_draw_a_box_by_mouse(page):
    page.get_by_role("button", name="Draw a box").click()
    place = page.locator("#picker .scene").bounding_box()
    person = page.locator("#picker .person").first.bounding_box()
    assert place["width"] > person["width"]
    page.mouse.move(person["x"] + 2, person["y"] + 2)
    page.mouse.down()
    page.mouse.move(person["x"] + person["width"] - 2, person["y"] + person["height"] - 2, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Look for the box").click()
    expect(page.locator("#grid .card[data-person]").first).to_be_visible()
    assert similarities(page)[0] > 0.95


def test_keyboard_only(page):
    """From the scene to a hit's mark without a mouse."""
    page.get_by_role("button", name="Draw a box").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#picker .drawn")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Escape")
    expect(page.locator("#picker .drawn")).not_to_be_visible()
    page.locator("#picker .person").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#grid .card[data-person]").first).to_be_visible()
    right = page.locator("#grid [data-action=right]").nth(1)
    right.focus()
    page.keyboard.press("Space")
    expect(page.locator("#positives li")).to_have_count(2)
    focused = page.evaluate("document.activeElement.dataset.action")
    assert focused == "right"
    page.locator("#grid [data-action=open]").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#scene-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#scene-dialog")).not_to_be_visible()


def test_case_is_kept_and_exported(page, tmp_path):
    page.get_by_role("link", name="Cases").click()
    page.get_by_label("Name").fill("lost child")
    page.get_by_role("button", name="New case").click()
    expect(page.locator("#case-view h3")).to_have_text("lost child")
    page.get_by_role("link", name="Find").click()
    pick_first(page)
    page.locator("#grid [data-action=right]").first.click()
    expect(page.locator("#grid .card.confirmed").first).to_be_visible()
    page.get_by_role("link", name="Cases").click()
    expect(page.locator("#case-view")).to_contain_text("Confirmed (1)")
    page.get_by_label("Notes").fill("seen at the gate")
    page.get_by_label("Notes").blur()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as ZIP").click()
    file = tmp_path / "case.zip"
    download.value.save_as(file)
    with zipfile.ZipFile(file) as archive:
        assert "seen at the gate" in archive.read("case.json").decode()
        (tmp_path / "index.html").write_bytes(archive.read("index.html"))
    offline = page.context.new_page()
    offline.goto((tmp_path / "index.html").as_uri())
    expect(offline.locator("body")).to_contain_text("Confirmed (1)")

    page.reload()
    expect(page.locator("#case-choice option:checked")).to_have_text("lost child")
    page.get_by_role("button", name="Search again").click()
    expect(page.locator("#grid .card.confirmed").first).to_be_visible()


def test_upload(page, tmp_path):
    import cv2

    from tests.fixtures.painted import scene

    picture = tmp_path / "upload.png"
    cv2.imwrite(str(picture), scene(("blue", 40)))
    page.locator("#upload").set_input_files(str(picture))
    expect(page.locator("#picker .person")).to_have_count(1)
    pick_first(page)
    first = page.locator("#grid .card .facts").first
    expect(first).to_contain_text("gate")
    picture.write_bytes(b"no picture")
    page.locator("#upload").set_input_files(str(picture))
    expect(page.locator("#problem")).to_be_visible()


def test_phone_width(browser, address):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#picker .person").first).to_be_visible()
    page.locator("#picker .person").first.tap()
    expect(page.locator("#grid .card[data-person]").first).to_be_visible()
    for link in ("Cases", "Footage", "Find"):
        page.get_by_role("link", name=link).tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_weight_and_time_of_the_first_page(browser, address):
    context = browser.new_context()
    page = context.new_page()
    sizes = []
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    started = time.monotonic()
    page.goto(address, wait_until="load")
    expect(page.locator("#strip button").first).to_be_visible()
    seconds = time.monotonic() - started
    assert sum(sizes) < PAGE_BYTES
    # A second on free cores; the tests share theirs.
    assert seconds < 10
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_issue(page, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    page.emulate_media(color_scheme=theme)
    pick_first(page)
    for link in ("Find", "Cases", "Footage"):
        page.get_by_role("link", name=link).click()
        _assert_accessible(axe.Axe().run(page))
    page.get_by_role("link", name="Find").click()
    page.locator("#grid [data-action=open]").first.click()
    expect(page.locator("#scene-dialog .person").first).to_be_visible()
    _assert_accessible(axe.Axe().run(page))


def _assert_accessible(results):
    found = [
        (violation["id"], node["html"][:200])
        for violation in results.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert found == []
