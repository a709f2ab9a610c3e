"""Chromium without a window, spoken to through a pipe: no driver, no port."""

import base64
import json
import os
import shutil
import subprocess
from itertools import count

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURES = """(() => ({
  page: document.documentElement.scrollWidth, window: innerWidth,
  pictures: [...document.querySelectorAll("svg, img")].filter(p => !p.closest("details:not([open])"))
    .map(p => [p.getBoundingClientRect().width, p.getBoundingClientRect().height]),
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
}))()"""


class Browser:
    """One page of a browser; a context manager."""

    def __init__(self, profile):
        to, into = os.pipe(), os.pipe()
        command = [
            BINARY,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        pipes = f'exec 3<&{to[0]} 4>&{into[1]}; exec "$@"'  # the browser reads 3 and writes 4
        self._process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", *command], pass_fds=(to[0], into[1]), stderr=subprocess.DEVNULL
        )
        os.close(to[0])
        os.close(into[1])
        self._out, self._in = os.fdopen(to[1], "wb"), os.fdopen(into[0], "rb")
        self._numbers, self._rest, self.events = count(1), b"", []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._in.close()

    def _message(self):
        while b"\0" not in self._rest:
            self._rest += (
                os.read(self._in.fileno(), 1 << 20) or b'{"id": 0, "error": "the browser is gone"}\0'
            )
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _ask(self, method, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._message()).get("id") != number:
            assert answer.get("id") != 0, answer
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def ask(self, method, **parameters):
        return self._ask(method, self._session, **parameters)

    def open(self, page, width):
        """Show a page in a window of a width, and measure it."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        seen = len(self.events)
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events[seen:]):
            self.events.append(self._message())
        return self.ask("Runtime.evaluate", expression=MEASURES, returnByValue=True)["result"]["value"]

    def complaints(self):
        """What the console shows, and addresses asked for beside the page."""
        told = [
            e
            for e in self.events
            if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]
        asked = [
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        ]
        return told + [url for url in asked if not url.startswith(("file:", "data:", "about:"))]

    def pdf(self):
        return base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=False)["data"])

    def screenshot(self):
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])
