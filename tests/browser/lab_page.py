"""What a person does in JupyterLab: open a notebook, run it, move things, read numbers."""

import contextlib
import re
import shutil

import looks

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
IDLE = re.compile(r"\| Idle")
QUIET = ("favicon", "net::ERR_ABORTED")  # what the browser itself says when a page is left


def installed_browser():
    """Where Chromium or Chrome is, ``None`` where neither is installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def browsing():
    """The browser that is installed, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=installed_browser(), args=ARGUMENTS)
        yield browser
        browser.close()


class LabPage:
    """One notebook open in a browser window. Collects every request and every complaint on the console."""

    def __init__(self, browser, address, width=1600, height=1100, theme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.address, self.theme = address, theme
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message):
        if message.type == "error" and not any(word in message.text + str(message.location) for word in QUIET):
            self.complaints.append(message.text)

    def open(self, notebook):
        """Open a notebook in a window of its own and wait for its kernel."""
        self.page.goto(f"{self.address}/lab/workspaces/auto-{id(self)}/tree/{notebook}?reset")
        self.page.locator(".jp-Notebook").wait_for()
        self.wear(self.theme)
        self.idle()
        return self

    def wear(self, theme):
        """Change to the light or the dark theme."""
        wanted = f"JupyterLab {theme.capitalize()}"
        if self.page.evaluate("document.body.dataset.jpThemeName") != wanted:
            self.command("Settings", "Theme", wanted)
            self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=wanted)

    def command(self, *path):
        """Choose an entry of the menus."""
        menus = self.page.locator(".lm-MenuBar-item", has_text=path[0])
        menus.first.click()
        for name in path[1:]:
            item = self.page.locator(".lm-Menu-item").filter(has=self.page.get_by_text(name, exact=True)).last
            item.click() if name == path[-1] else item.hover()

    def idle(self):
        """Wait for the status bar to say that the kernel waits: the notebook's own attribute says so too early."""
        self.page.locator(".jp-StatusBar-Widget").get_by_text(IDLE).first.wait_for()

    def run_all(self):
        """Run > Run All Cells, and wait until every cell is done."""
        self.command("Run", "Run All Cells")
        self.page.wait_for_function(
            """() => { const codes = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputArea-prompt')];
            return codes.length && !codes.some(p => p.textContent.includes('[*]')) }"""
        )
        self.idle()

    def widget(self, number=0):
        """A panel of the lab on the page."""
        panel = self.page.locator(".sparselab").nth(number)
        panel.scroll_into_view_if_needed()
        return panel

    def assert_readable(self, panel):
        """Every text stands out in both themes (WCAG 1.4.3), nothing is cut off, every control has a name."""
        for theme in ("light", "dark"):
            self.wear(theme)
            faint = [found for found in looks.texts(panel) if found[0] < 4.5]
            assert not faint, (theme, faint)
        assert not looks.cut_off(panel), looks.cut_off(panel)
        assert not looks.unnamed(panel), looks.unnamed(panel)

    def assert_quiet(self):
        """Nothing asked of any other machine, and nothing to complain about."""
        outside = [
            url for url in self.requests if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:|about:", url)
        ]
        assert not outside, outside
        assert not self.complaints, self.complaints

    def close(self):
        self.context.close()
