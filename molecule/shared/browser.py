"""Web pages in a browser."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Error, sync_playwright

# Until something is on a page.
BROWSER_MILLISECONDS = 300_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's browser during the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def trusting_chromium(authorities: Path, home: Path) -> Iterator[Browser]:
    """Run Debian's browser during the block, as for a user who has imported certificates of authorities.

    Args:
        home: an empty directory.
    """
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for command in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "fleet", "-i", str(authorities)]):
        subprocess.run(["certutil", "-d", f"sql:{database}", *command], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"], env={**os.environ, "HOME": str(home)}
        )
        yield browser
        browser.close()


def assert_shut_out(browser: Browser, url: str, user: str, password: str, hidden: str) -> None:
    """Fail if a page is accessible with these credentials, or shows a secret text."""
    with browser.new_context(http_credentials={"username": user, "password": password}) as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_MILLISECONDS)
        try:
            response = page.goto(url)
        except Error as error:
            assert "ERR_INVALID_AUTH_CREDENTIALS" in str(error)
            return
        assert response is not None
        assert response.status == 401
        assert hidden not in page.content()
