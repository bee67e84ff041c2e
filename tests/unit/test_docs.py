"""Pages hold together: code is fenced, links between pages lead somewhere, and headings linked to exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def prose(text):
    """The page without its code."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def anchors(page):
    """Fragments of the page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced_by_three_backticks(page):
    fences = re.findall(r"(?m)^(`+)[a-z]*$", page.read_text(encoding="utf-8"))
    assert set(fences) <= {"```"}
    assert len(fences) % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for place, fragment in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        target = page.parent / place if place else page
        assert target.exists(), place
        assert not fragment or fragment in anchors(target), f"{place}#{fragment}"
