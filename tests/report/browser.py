"""A real browser on a page, by its debugging pipe: what it would fetch, which dialogs open, what it understood."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
)


@dataclass
class Visit:
    """What happened on one page."""

    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    dom: str = ""


class Browser:
    """Headless Chromium whose every host name leads to a closed port of this machine."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        ours, theirs = os.pipe(), os.pipe()
        command = f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        flags = [*_FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * 127.0.0.1:9"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM, *flags, "about:blank"],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb")
        self._number, self._rest, self._visit = 0, b"", Visit()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._to.close()
        self._from.close()

    def visit(self, page: Path) -> Visit:
        """Open a file, let it settle, and read back what the browser made of it."""
        self._visit = Visit()
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self._call(f"{domain}.enable", session=session)
        self._call("Page.navigate", {"url": page.as_uri()}, session)
        settled = "new Promise(go => setTimeout(() => go(document.documentElement.outerHTML), 700))"
        asked = {"expression": settled, "awaitPromise": True}
        self._visit.dom = self._call("Runtime.evaluate", asked, session)["result"]["value"]
        self._call("Target.closeTarget", {"targetId": target})
        return self._visit

    def _call(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        number = self._send(method, params, session)
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _send(self, method: str, params: dict[str, Any] | None, session: str | None) -> int:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params or {}}
        self._to.write(json.dumps(asked | ({"sessionId": session} if session else {})).encode() + b"\0")
        self._to.flush()
        return self._number

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._from.fileno(), 1 << 16)
            assert read, "the browser went away"
            self._rest += read
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Network.requestWillBeSent":
            self._visit.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Page.javascriptDialogOpening":
            self._visit.dialogs.append(message["params"]["message"])
            self._send("Page.handleJavaScriptDialog", {"accept": False}, message["sessionId"])
