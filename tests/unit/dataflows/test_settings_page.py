"""docs/build_flow.md names every setting of the build flow with its default."""

from dataclasses import MISSING, fields
from pathlib import Path

from dataflows.config import BuildConfig
from utils.types import S2_L2A_BANDS

PAGE = Path(__file__).parents[3] / "docs" / "build_flow.md"


def shown(field):
    if field.default_factory is not MISSING:
        return str(field.default_factory())
    if field.default is MISSING:
        return "required"
    return "the 12 L2A bands" if field.default == S2_L2A_BANDS else str(field.default)


def test_every_setting_is_on_the_page_with_its_default():
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = {row[0].strip("|` "): row[1] for row in rows}
    assert told == {field.name: shown(field) for field in fields(BuildConfig)}
