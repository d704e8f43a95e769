"""The report's page: one HTML document that fetches nothing, runs nothing, and reads the same on paper.

Everything that comes out of a log is escaped by the template's autoescaping, and the page forbids itself (Content-Security-Policy)
whatever it does not need: scripts, images, fonts, frames, forms, requests of any kind, and every style but its own, which is named
by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime

import jinja2
from markupsafe import Markup

from audit.console import visible
from audit.report import Page

TEMPLATE, STYLE = "report.html", "report.css"


def render(page: Page) -> str:
    """The whole HTML document."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("audit"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "size": size, "duration": duration, "moment": moment, "groups": groups}
    style = environment.get_template(STYLE).render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # The style sheet is a file of this package: the one piece of the page that is not escaped.
    return environment.get_template(TEMPLATE).render(page=page, style=Markup(style), style_digest=digest)


def _shown(value: object) -> object:
    """Every text of the page: no control character or change of direction gets through; markup is the style sheet alone."""
    return visible(value.replace("\n", " ")) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: int) -> str:
    """With thousands set apart."""
    return f"{value:,}"


def size(count: int) -> str:
    """A number of bytes in the unit that reads best (powers of 1000)."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{count} bytes" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{count} bytes"


def duration(seconds: float | None) -> str:
    """Seconds as people say them; a dash where there is no end."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(text: str, precise: bool = False) -> str:
    """A time of a log, RFC 3339, to the second (``precise``: to the hundredth) in UTC; a text that is no time as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text or "–"
    if found.tzinfo is None:
        return text
    found = found.astimezone(UTC)
    fraction = f".{found.microsecond // 10_000:02d}" if precise else ""
    return found.strftime("%Y-%m-%d %H:%M:%S") + fraction + " UTC"


def groups(text: str, length: int = 8) -> str:
    """Hexadecimal digits in groups, for people to compare."""
    return " ".join(text[at : at + length] for at in range(0, len(text), length))
