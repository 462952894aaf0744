"""Pictures of Home Assistant's pages: `pictures.py CHROMIUM TOKENS NAME=URL...`; playwright and Debian's Chromium."""

import sys
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

chromium, tokens, *pages = sys.argv[1:]
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    for at in pages:
        name, _, url = at.partition("=")
        page.goto("{0.scheme}://{0.netloc}/manifest.json".format(urlsplit(url)))
        page.evaluate("tokens => localStorage.setItem('hassTokens', tokens)", tokens)
        page.goto(url)
        page.get_by_text("Diagnostic", exact=True).first.wait_for()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=name)
    browser.close()
