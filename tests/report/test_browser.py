import pytest
from browser import CHROMIUM, Browser
from hostile import MARKUP, dealt, strings, texts
from spoken import language, repaired, with_untrusted
from test_page import page, parsed

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def visited(browser, folder, text):
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return browser.visit(path)


def test_a_browser_that_meets_a_script_and_an_image_shows_it(browser, tmp_path):
    seen = visited(browser, tmp_path, f"<!doctype html><title>x</title>{MARKUP[0]}{MARKUP[7]}")
    assert seen.dialogs
    assert any("evil.example" in url for url in seen.requests)
    assert 'data-ran="1"' in seen.dom


def test_a_hostile_record_runs_nothing_fetches_nothing_and_reads_as_a_harmless_one(browser, tmp_path):
    run = with_untrusted(repaired(language(), "nats"))
    cards = strings(5000)
    usual = visited(browser, tmp_path, page(run))
    for start in range(0, 8 * len(texts(run)), len(texts(run))):
        seen = visited(browser, tmp_path, page(dealt(run, cards, start)))
        assert seen.dialogs == []
        assert [url for url in seen.requests if not url.endswith("/page.html")] == []
        assert "data-ran=" not in seen.dom
        assert parsed(seen.dom).tags == parsed(usual.dom).tags
