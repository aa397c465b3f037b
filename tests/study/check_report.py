#!/usr/bin/env python3
"""Looks at a page that thaw wrote in headless Chromium, as a phone and as a desk, in light and in dark.

    check_report.py report.html [--kind sweep|blocks] [--text WORDS]... [--screenshot FILE.png]

A sweep's report has marks that lead to its tables, the page of thaw inspect has heat maps. Exits 0 when there is no
console message, no sideways overflow, all text is there and readable, and what can be pointed at is reachable by
keyboard; 1 with what is wrong; 77 (skipped) when no Chromium is installed, or one that shows no page at all.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SKIPPED = 77
ATTEMPTS = 3  # a machine under load may end the page's time before it is drawn
PLAIN_PAGE = "<!doctype html><html><head></head><body>a page</body></html>"
# Written into the page before it is looked at: what a person would see, as one line of JSON in the title.
PROBE = """<script>
const problems = [];
addEventListener('error', event => problems.push('error: ' + event.message));
addEventListener('load', () => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll('body *')].filter(element => {
    if (element.closest('.scroll') && !element.matches('.scroll')) return false;
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > root.clientWidth + 1 || box.left < -1);
  });
  const marks = [...document.querySelectorAll('svg a')];
  const scrolled = [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth);
  const unreachable = [...marks, ...scrolled].filter(each => { each.focus(); return document.activeElement !== each; });
  const named = svg => svg.getAttribute('aria-label') || svg.querySelector(':scope > title')?.textContent;
  const unnamed = [...document.querySelectorAll('svg')].filter(svg => !named(svg));
  const small = [...document.querySelectorAll('svg text')].filter(text => text.getBoundingClientRect().height < 9);
  document.title = JSON.stringify({
    width: root.clientWidth, overflow: root.scrollWidth > root.clientWidth,
    wide: wide.slice(0, 5).map(element => element.tagName + '.' + element.className?.baseVal + element.textContent.slice(0, 40)),
    marks: marks.length, cells: document.querySelectorAll('svg rect').length,
    unreachable: unreachable.length, unnamed: unnamed.length, small: small.length,
    background: getComputedStyle(document.body).backgroundColor, text: document.body.innerText.length, problems});
});
</script>"""


def browser():
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def look(program, page, width, dark, dump):
    """Standard output and error of the browser, in a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--disable-component-update",
                   "--disable-extensions", "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}",
                   f"--window-size={width},900", "--virtual-time-budget=2000"]
        if dark:
            command += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
        command += [*dump, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class NotShown(Exception):
    pass


def probe(program, html, width, dark):
    """What the page says of itself when it is `width` wide, and the console. @raises NotShown"""
    for _ in range(ATTEMPTS):
        try:
            return probe_once(program, html, width, dark)
        except (NotShown, subprocess.TimeoutExpired) as reason:
            last = reason
    raise NotShown(f"the page did not load in {ATTEMPTS} attempts: {last}")


def probe_once(program, html, width, dark):
    """As above. Browsers have a least window: a frame has none."""
    with tempfile.TemporaryDirectory() as folder:
        inner = pathlib.Path(folder) / "page.html"
        inner.write_text(html.replace("<head>", "<head>" + PROBE, 1), encoding="utf-8")
        outer = pathlib.Path(folder) / "frame.html"
        outer.write_text(f"<!doctype html><iframe src='page.html' style='width:{width}px;height:900px;border:0'></iframe>"
                         "<script>addEventListener('load', () => setTimeout(() => { document.body.innerText = "
                         "document.querySelector('iframe').contentDocument.title; }, 500));</script>", encoding="utf-8")
        ended = look(program, outer, max(width + 40, 600), dark, ["--allow-file-access-from-files", "--dump-dom"])
    found = re.search(r"<body[^>]*>(\{.*?\})</body>", ended.stdout, re.S)
    if not found:
        raise NotShown(f"{ended.stdout[:300]} {ended.stderr[:300]}")
    text = found.group(1).replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text), [line for line in ended.stderr.splitlines() if "CONSOLE" in line]


def faults(said, console, width, kind):
    wrong = [f"console: {line}" for line in console] + said["problems"]
    if said["width"] != width:
        wrong.append(f"it was shown {said['width']} px wide")
    if said["overflow"] or said["wide"]:
        wrong.append(f"wider than the page: {said['wide']}")
    if said["unreachable"] or said["unnamed"]:
        wrong.append(f"{said['unreachable']} marks or scrolled parts cannot be focused, "
                     f"{said['unnamed']} charts have no title")
    if said["small"]:
        wrong.append(f"{said['small']} labels are too small to read")
    drawn = "marks" if kind == "sweep" else "cells"
    if said[drawn] == 0 or said["text"] < 500:
        wrong.append(f"{said[drawn]} {drawn} and {said['text']} letters: something is missing")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--kind", choices=("sweep", "blocks"), default="sweep")
    parser.add_argument("--screenshot", type=pathlib.Path)
    parser.add_argument("--text", action="append", default=[], help="must stand in the page")
    arguments = parser.parse_args()
    program = browser()
    if program is None:
        print("skipped: no Chromium is installed (apt-get install chromium)")
        return SKIPPED
    try:
        probe(program, PLAIN_PAGE, 360, False)
    except NotShown as reason:
        print(f"skipped: {program} shows no page here: {reason}")
        return SKIPPED
    html = arguments.report.read_text(encoding="utf-8")
    wrong = [f"'{text}' is not in the page" for text in arguments.text if text not in html]
    backgrounds = set()
    for width, dark in ((360, False), (360, True), (1200, False)):
        said, console = probe(program, html, width, dark)
        backgrounds.add(said["background"])
        wrong += [f"{width} px{', dark' if dark else ''}: {fault}" for fault in faults(said, console, width, arguments.kind)]
        print(f"{width} px{', dark' if dark else ''}: {said['marks']} marks, {said['cells']} cells, "
              f"{said['text']} letters, {said['background']}")
    if len(backgrounds) < 2:
        wrong.append("light and dark look the same")
    if arguments.screenshot:
        look(program, arguments.report.resolve(), 1100, False, [f"--screenshot={arguments.screenshot.resolve()}"])
    for fault in wrong:
        print(f"wrong: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
