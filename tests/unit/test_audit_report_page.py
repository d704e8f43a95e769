"""The report's page by itself: well-formed, on its own, escaped, readable on screen and on paper."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from itertools import pairwise
from pathlib import Path

import pytest

from audit.report import Page
from audit.report_html import render
from tests.unit.audit_world import policy, write
from tests.unit.report_world import HOSTILE, Parsed, every, page_of, story


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("world"), story())


@pytest.fixture(scope="module")
def page(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(every(world), policy=policy(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def parsed(page: Page) -> Parsed:
    return Parsed(render(page))


def test_it_fetches_and_runs_nothing(page: Page, parsed: Parsed) -> None:
    text = render(page)
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "action", "style", "background", "poster"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert not {tag for tag, _ in parsed.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "use",
        "image",
    }
    assert not re.search(r"url\(|@import|@font-face", parsed.style)
    assert "http://" not in text
    assert "https://" not in text


def test_it_allows_itself_nothing_but_its_own_style(parsed: Parsed) -> None:
    (rule,) = [each["content"] for each in parsed.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(parsed.style.encode()).digest()).decode()
    assert rule == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert parsed.of("meta")[0] == {"charset": "utf-8"}


def test_what_logs_say_is_text_and_never_markup(page: Page, parsed: Parsed) -> None:
    text = render(page)
    assert "<script" not in text
    assert "<img" not in text
    assert text.count(html.escape("<script>alert(1)</script>", quote=False)) >= 4, "title, heading, approvals"
    assert HOSTILE in parsed.text
    assert "<b>late</b>" in parsed.text
    assert "“<i>novel</i>”" in parsed.text
    assert "a clause <of> its own" in parsed.text
    assert not {tag for tag, _ in parsed.tags} & {"b", "i"}


def test_no_text_turns_what_follows_around(tmp_path: Path) -> None:
    folders = write(tmp_path / "world", story(by="Ada \u202eknab eht fo\x07"))
    text = render(page_of(every(folders), policy=policy(tmp_path)))
    assert "Ada \\u202eknab eht fo\\x07" in text
    assert "\u202e" not in text


def test_it_can_be_read_by_everyone(parsed: Parsed) -> None:
    assert parsed.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), levels
    assert parsed.of("th")
    assert all(each.get("scope") in ("col", "row") for each in parsed.of("th"))
    assert all(each.get("aria-hidden") == "true" for each in parsed.of("svg")), "the table says the same in words"
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"][1:] for each in parsed.of("a")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in parsed.tags if "aria-labelledby" in a} <= set(ids)


def test_it_has_a_form_for_paper(parsed: Parsed) -> None:
    assert "@page { size: A4" in parsed.style
    assert "@media print" in parsed.style


def test_colours_contrast(parsed: Parsed) -> None:
    """Ratios of WCAG 2.1 (1.4.3) for text on the grounds it stands on."""
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", parsed.style))

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def ratio(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for ink in ("ink", "soft", "accent", "good", "warn", "bad"):
        assert ratio(colours[ink], "#ffffff") >= 4.5, ink
    for ink, ground in (("soft", "wash"), ("good", "good-wash"), ("warn", "warn-wash"), ("bad", "bad-wash"), ("ink", "warn-wash")):
        assert ratio(colours[ink], colours[ground]) >= 4.5, (ink, ground)
