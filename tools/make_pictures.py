"""Pictures of the live page, light and dark: docs/pictures; make pictures

It is given some traces first, so that there is something to see.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.process.test_tail import a_fleet
from tests.process.test_tail_web import Web, runs_now
from tests.support.harness import Launcher
from tests.support.servers import base_environ, start_browser

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
TASKS = {"shop.pay": (14, 2), "shop.mail": (30, 0), "shop.reserve_stock": (9, 1)}


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        launcher = Launcher(Path(name), base_environ(Path(name)))
        web = Web(launcher)
        for _ in range(6):
            for task, (count, failed) in TASKS.items():
                web.send(runs_now(task, count, failed=failed))
            time.sleep(5)
        web.send(a_fleet())
        web.wait_for("has come", "/problems")
        found = re.search(r'href="(/trace/\w+)">POST', web.get("/traces")[1])
        assert found
        views = {
            "tasks": "/",
            "traces": "/traces",
            "problems": "/problems",
            "trace": found[1],
        }
        with sync_playwright() as playwright:
            browser = start_browser(playwright)
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    color_scheme=scheme,
                    viewport={"width": 1200, "height": 560},
                )
                for view, path in views.items():
                    page.goto(web.url + path)
                    page.locator("tbody tr").first.wait_for()
                    page.screenshot(path=FOLDER / f"{view}-{scheme}.png")
            browser.close()
        web.end()


if __name__ == "__main__":
    main()
