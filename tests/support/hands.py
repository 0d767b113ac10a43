"""A person's hands at a browser: a mouse that hits what is seen, or a keyboard alone."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from support.chromium import Chromium
from support.platform_process import wait

MOST_STOPS: Final = 400
"""Of the Tab key, before a page is said to hold its reader."""
KEYS: Final[dict[str, dict[str, Any]]] = {
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
}
FOCUS: Final = """(() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const box = at.getBoundingClientRect(), style = getComputedStyle(at);
  return {
    html: at.outerHTML.slice(0, 160),
    seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0
      && box.top < innerHeight && box.left < innerWidth,
    ringed: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1,
  };
})()"""
"""What has the focus: whether it lies in the window, and whether a ring is drawn around it."""


BEGINNING: Final = """(() => {
  document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex');
})()"""
"""Puts the focus where Tab goes to the first stop. On a busy machine Chromium may begin elsewhere,
after what a check of the page had looked at."""


class Hands:
    """What somebody does, and how much of it: a click or a field is one step.

    Args:
        browser: with one page open.
        by_keys: nothing is done by a mouse.
    """

    def __init__(self, browser: Chromium, *, by_keys: bool) -> None:
        self.browser = browser
        self.by_keys = by_keys
        self.begin()

    def begin(self) -> None:
        """Count from here on."""
        self.steps, self.stops, self._begun_s = 0, 0, time.perf_counter()

    @property
    def took_s(self) -> float:
        """Since `begin`: the machine's time, without that of a reader."""
        return time.perf_counter() - self._begun_s

    def press(self, selector: str) -> None:
        """Follow a link or press a button, and return once the page that follows is loaded."""
        self.steps += 1
        self._at(selector)
        self.browser.run("window.before = true")
        self._key("Enter") if self.by_keys else self._click(selector)
        self._loaded(selector)

    def write(self, selector: str, text: str) -> None:
        """Fill a field in."""
        self.steps += 1
        self._at(selector)
        if not self.by_keys:
            self._click(selector)
        self.browser.call("Input.insertText", text=text)

    def choose(self, selector: str, option: str) -> None:
        """Take an option of a list, by the beginning of its name."""
        self.steps += 1
        self._at(selector)
        if not self.by_keys:
            self.browser.run(f"document.querySelector({json.dumps(selector)}).focus()")
        for letter in option:
            self._letter(letter)
        chosen = f"document.querySelector({json.dumps(selector)}).value"
        assert self.browser.run(chosen) == option

    def date(self, selector: str, month: str, day: str, year: str, time: str) -> None:
        """Type a date and a time, `0930AM`, as a field of an American browser takes it."""
        self.steps += 1
        self._at(selector)
        if not self.by_keys:
            self._click(selector, from_left=14)
        for digit in month + day + year:
            self._letter(digit)
        self._key("Tab")
        for letter in time:
            self._letter(letter)

    def access(self, key: str) -> None:
        """Press an access key: Alt and a digit."""
        self.steps += 1
        self.browser.run("window.before = true")
        held = {"modifiers": 1, "key": key, "code": f"Digit{key}"}
        number = {"windowsVirtualKeyCode": ord(key)}
        text = {"text": key, "unmodifiedText": key}
        self.browser.call("Input.dispatchKeyEvent", type="keyDown", **held, **number, **text)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **held, **number)
        self._loaded(f"Alt and {key}")

    def walk(self) -> list[dict[str, Any]]:
        """Every stop of the Tab key, from the page's beginning until it leaves the page."""
        found: list[dict[str, Any]] = []
        self.browser.run(BEGINNING)
        for _ in range(MOST_STOPS):
            self._key("Tab")
            stop = self.browser.run(FOCUS)
            if stop is None:
                return found
            found.append(stop)
        raise AssertionError(f"Tab does not leave the page: {found[-3:]}")

    def _at(self, selector: str) -> None:
        """By keys: go there with Tab, and see at each stop where one is."""
        named = json.dumps(selector)
        assert self.browser.run(f"document.querySelector({named}) !== null"), selector
        is_there = f"document.activeElement === document.querySelector({named})"
        for _ in range(MOST_STOPS):
            if not self.by_keys or self.browser.run(is_there):
                return
            self.stops += 1
            self._key("Tab")
            stop = self.browser.run(FOCUS)
            assert stop is None or (stop["seen"] and stop["ringed"]), stop
        raise AssertionError(f"Tab does not come to {selector}")

    def _click(self, selector: str, *, from_left: float | None = None) -> None:
        named, left = json.dumps(selector), json.dumps(from_left)
        at = self.browser.run(f"""(() => {{
          const it = document.querySelector({named});
          it.scrollIntoView({{block: 'center'}});
          const box = it.getClientRects()[0];
          const x = box.left + ({left} ?? box.width / 2), y = box.top + box.height / 2;
          const hit = document.elementFromPoint(x, y);
          return {{x, y, free: hit !== null && (it === hit || it.contains(hit))}};
        }})()""")
        assert at["free"], f"something lies over {selector}"
        place = {"x": at["x"], "y": at["y"], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call("Input.dispatchMouseEvent", type=kind, **place)

    def _key(self, name: str) -> None:
        self.browser.call("Input.dispatchKeyEvent", type="keyDown", **KEYS[name])
        up = {k: v for k, v in KEYS[name].items() if k != "text"}
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **up)

    def _letter(self, letter: str) -> None:
        code = {"windowsVirtualKeyCode": ord(letter.upper())}
        told = {"key": letter, "text": letter, **code}
        self.browser.call("Input.dispatchKeyEvent", type="keyDown", **told)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", key=letter, **code)

    def _loaded(self, what: str) -> None:
        # a page that leads on at once would take the place of the one that is opened next
        done = (
            "!window.before && document.readyState == 'complete'"
            " && !document.querySelector('meta[http-equiv=refresh]')"
        )
        wait(lambda: self.browser.run(done), f"what {what} leads to")
