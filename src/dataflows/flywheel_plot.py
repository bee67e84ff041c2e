"""The flywheel's ledger as a picture: recall and precision, IoU, and detections per round."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from store.rounds import Round
from utils.errors import ConfigError

_SCALE = 2
_PANEL = (380, 300)
_MARGIN = (52, 40, 16, 78)
"""Left, top, right and bottom of a panel's axes, pixels."""
_INK, _GRID, _PAPER = "#102a43", "#d9e2ec", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of a panel."""

    name: str
    place: str
    colour: str
    dashed: bool = False


_PANELS: tuple[tuple[str, tuple[_Line, ...]], ...] = (
    (
        "objects on frozen test ground",
        (
            _Line(name="recall, all", place="metrics.recall_before", colour="#2f6db5", dashed=True),
            _Line(name="precision, all", place="metrics.precision_before", colour="#c8553d", dashed=True),
            _Line(name="recall, accepted", place="metrics.recall_after", colour="#2f6db5"),
            _Line(name="precision, accepted", place="metrics.precision_after", colour="#c8553d"),
        ),
    ),
    (
        "IoU of pixels with truth",
        (
            _Line(name="model, gold test rows", place="metrics.model_iou", colour="#2a9d8f"),
            _Line(name="candidate", place="metrics.candidate_iou", colour="#2a9d8f", dashed=True),
            _Line(name="training masks", place="metrics.train_mask_iou", colour="#b07d12"),
        ),
    ),
    (
        "detections of the search",
        (
            _Line(name="all", place="counts.detections", colour="#5f6c7b"),
            _Line(name="accepted", place="counts.accepted", colour="#2a9d8f"),
            _Line(name="review", place="counts.review", colour="#b07d12"),
            _Line(name="rejected", place="counts.rejected", colour="#c8553d"),
        ),
    ),
)


def ledger_picture(rounds: Sequence[Round], path: str | Path) -> Path:
    """Draw the ledger as a PNG: a panel each for objects, pixels and counts, the round along the bottom.

    Raises:
        ConfigError: there is no round, the file is no PNG, or its place cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ConfigError(f"{target}: the ledger is drawn as a .png file")
    if not rounds:
        raise ConfigError("there is no round to draw")
    width, height = _PANEL
    picture = Image.new("RGB", (_SCALE * width * len(_PANELS), _SCALE * height), _PAPER)
    for number, (title, lines) in enumerate(_PANELS):
        _Panel(ImageDraw.Draw(picture), number * width, rounds).draw(title, lines)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((width * len(_PANELS), height), Image.Resampling.LANCZOS).save(target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error}") from error
    return target


class _Panel:
    """One panel: axes, lines and their names."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: int, rounds: Sequence[Round]) -> None:
        self._draw, self._rounds = draw, rounds
        margin_left, top, right, bottom = _MARGIN
        self._box = (left + margin_left, top, left + _PANEL[0] - right, _PANEL[1] - bottom)
        self._font = ImageFont.load_default(11 * _SCALE)
        self._first, self._last = rounds[0].number, max(rounds[-1].number, rounds[0].number + 1)

    def draw(self, title: str, lines: Sequence[_Line]) -> None:
        found = {line: self._values(line.place) for line in lines}
        highest = max((value for values in found.values() for _, value in values), default=1.0)
        top = 1.0 if highest <= 1 else _round_up(highest)
        left, _, right, _ = self._box
        self._text((left + right) / 2, 16, title, anchor="mm", size=13)
        self._axes(top)
        for position, (line, values) in enumerate(found.items()):
            points = [(self._x(number), self._y(value, top)) for number, value in values]
            self._line(points, line)
            self._name(position, line)

    def _values(self, place: str) -> list[tuple[int, float]]:
        kind, _, name = place.partition(".")
        found = [(row.number, getattr(row, kind).get(name)) for row in self._rounds]
        return [(number, float(value)) for number, value in found if value is not None]

    def _x(self, number: float) -> float:
        left, _, right, _ = self._box
        return left + 10 + (right - left - 20) * (number - self._first) / (self._last - self._first)

    def _y(self, value: float, top: float) -> float:
        _, upper, _, lower = self._box
        return lower - (lower - upper) * value / top

    def _axes(self, top: float) -> None:
        left, _, right, lower = self._box
        for part in range(5):
            value = top * part / 4
            y = self._y(value, top)
            self._stroke([(left, y), (right, y)], _INK if part == 0 else _GRID, 1)
            self._text(left - 6, y, f"{value:.2f}" if top <= 1 else f"{value:,.0f}", anchor="rm")
        for row in self._rounds:
            self._text(self._x(row.number), lower + 12, str(row.number), anchor="mm")
        self._text((left + right) / 2, lower + 28, "round", anchor="mm")

    def _line(self, points: Sequence[tuple[float, float]], line: _Line) -> None:
        for start, end in itertools.pairwise(points):
            for piece in _dashes(start, end) if line.dashed else [(start, end)]:
                self._stroke(piece, line.colour, 2)
        for x, y in points:
            box = [_SCALE * (x - 3), _SCALE * (y - 3), _SCALE * (x + 3), _SCALE * (y + 3)]
            self._draw.ellipse(box, fill=_PAPER if line.dashed else line.colour, outline=line.colour, width=_SCALE)

    def _name(self, position: int, line: _Line) -> None:
        left, _, right, lower = self._box
        x = left - 30 + (position % 2) * (right - left + 30) / 2
        y = lower + 46 + (position // 2) * 16
        for piece in _dashes((x, y), (x + 22, y)) if line.dashed else [((x, y), (x + 22, y))]:
            self._stroke(piece, line.colour, 2)
        self._text(x + 28, y, line.name, anchor="lm")

    def _stroke(self, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
        self._draw.line([(_SCALE * x, _SCALE * y) for x, y in points], fill=colour, width=_SCALE * width)

    def _text(self, x: float, y: float, text: str, *, anchor: str, size: int = 11) -> None:
        font = self._font if size == 11 else ImageFont.load_default(size * _SCALE)
        self._draw.text((_SCALE * x, _SCALE * y), text, fill=_INK, font=font, anchor=anchor)


def _dashes(
    start: tuple[float, float], end: tuple[float, float], *, dash: float = 5.0
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Every second piece of a line, pieces of about ``dash`` pixels."""
    count = max(1, int(math.dist(start, end) / dash)) | 1

    def at(part: int) -> tuple[float, float]:
        share = part / count
        return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share

    return [(at(part), at(part + 1)) for part in range(0, count, 2)]


def _round_up(value: float) -> float:
    """The next number of the kind 1, 2, 4, 6, 8 × a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)
