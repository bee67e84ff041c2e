"""Plane geometry the landscape is built from; all coordinates are UTM metres."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Polygon

Ring = NDArray[np.float64]
"""Vertices of a polygon without the closing one, shape (n, 2)."""
Vector = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle on the ground with its own axes: ``u`` along the length, ``v`` across, origin at the centre."""

    centre: Vector
    """Centre, UTM metres."""
    angle: float
    """Direction of ``u``, radians from the x axis."""
    length: float
    """Extent along ``u``, metres."""
    width: float
    """Extent along ``v``, metres."""

    def point(self, u: float, v: float) -> Vector:
        """UTM position of local ``(u, v)``."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return float(self.centre[0] + u * cos - v * sin), float(self.centre[1] + u * sin + v * cos)

    def polygon(self, corners: Sequence[Vector]) -> Polygon:
        """Polygon of local corners."""
        return Polygon([self.point(u, v) for u, v in corners])

    def rectangle(self, u0: float, v0: float, u1: float, v1: float) -> Polygon:
        """Rectangle from local ``(u0, v0)`` to ``(u1, v1)``."""
        return self.polygon([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])

    @property
    def outline(self) -> Polygon:
        """The whole rectangle."""
        return self.rectangle(-self.length / 2, -self.width / 2, self.length / 2, self.width / 2)

    def part(self, u: float, v: float, length: float, width: float) -> "Frame":
        """A smaller frame with the same axes, centred on local ``(u, v)``."""
        return Frame(centre=self.point(u, v), angle=self.angle, length=length, width=width)

    def turned(self) -> "Frame":
        """The same rectangle with ``u`` and ``v`` exchanged."""
        return Frame(centre=self.centre, angle=self.angle + np.pi / 2, length=self.width, width=self.length)


def frame_of(polygon: Polygon) -> Frame:
    """The smallest rotated rectangle around ``polygon``, ``u`` along its longer side."""
    ring = np.asarray(shapely.minimum_rotated_rectangle(polygon).exterior.coords)[:4]
    first, second = ring[1] - ring[0], ring[2] - ring[1]
    if np.hypot(*first) < np.hypot(*second):
        first, second = second, first
    centre = ring.mean(axis=0)
    return Frame(
        centre=(float(centre[0]), float(centre[1])),
        angle=float(np.arctan2(first[1], first[0])),
        length=float(np.hypot(*first)),
        width=float(np.hypot(*second)),
    )


def inset(polygon: Polygon, distance: float) -> Polygon:
    """``polygon`` shrunk by ``distance`` with sharp corners: its largest part, or an empty polygon."""
    return largest_part(polygon.buffer(-distance, join_style="mitre"))


def largest_part(geometry: shapely.Geometry) -> Polygon:
    """The largest polygon in ``geometry``, without holes; an empty polygon when there is none."""
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon) and not part.is_empty]
    return Polygon(max(parts, key=lambda part: part.area).exterior) if parts else Polygon()


def _cut(ring: Ring, point: Vector, angle: float) -> tuple[Ring, Ring, Ring]:
    """A convex ring cut by the line through ``point``: left part, right part, the two ends of the cut."""
    normal = np.array([-np.sin(angle), np.cos(angle)])
    side = (ring - point) @ normal
    following, next_side = np.roll(ring, -1, axis=0), np.roll(side, -1)
    left: list[Ring] = []
    right: list[Ring] = []
    ends: list[Ring] = []
    for here, there, s, t in zip(ring, following, side, next_side, strict=True):
        (left if s >= 0 else right).append(here)
        if (s >= 0) != (t >= 0):
            crossing = here + (there - here) * (s / (s - t))
            left.append(crossing)
            right.append(crossing)
            ends.append(crossing)
    return np.array(left), np.array(right), np.array(ends)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One straight cut of a subdivision."""

    line: LineString
    """From border to border of the piece that was cut."""
    depth: int
    """How many cuts came before it."""


def subdivide(
    polygon: Polygon, rng: np.random.Generator, *, area_m2: float, jitter: float = 0.05, first_turn: float = 0.0
) -> tuple[list[Polygon], list[Cut]]:
    """A convex polygon cut in two again and again, each time across its longer side.

    Args:
        polygon: convex polygon.
        rng: random stream.
        area_m2: pieces smaller than 0.75 to 1.4 times this are left whole.
        jitter: standard deviation of a cut's direction, radians.
        first_turn: what the very first cut is turned by, radians.

    Returns:
        The pieces and the cuts.
    """
    pieces: list[Polygon] = []
    cuts: list[Cut] = []
    queue = [(np.asarray(polygon.exterior.coords)[:-1], 0)]
    while queue:
        ring, depth = queue.pop()
        piece = Polygon(ring)
        if piece.area < area_m2 * rng.uniform(0.75, 1.4):
            pieces.append(piece)
            continue
        frame = frame_of(piece)
        middle = frame.point(rng.uniform(-0.09, 0.09) * frame.length, 0.0)
        turn = rng.normal(0.0, jitter) + (first_turn if depth == 0 else 0.0)
        left, right, ends = _cut(ring, middle, frame.angle + np.pi / 2 + turn)
        if len(ends) != 2 or len(left) < 3 or len(right) < 3:
            pieces.append(piece)
            continue
        cuts.append(Cut(line=LineString(ends), depth=depth))
        queue += [(left, depth + 1), (right, depth + 1)]
    return pieces, cuts


def blob(
    centre: Vector, radius: float, rng: np.random.Generator, *, vertices: int = 48, rough: float = 0.18
) -> Polygon:
    """A round-ish polygon with a smooth irregular outline: ponds, copses, clouds."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = np.ones(vertices)
    for wave in range(2, 7):
        reach += rough / wave * 2 * rng.normal() * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    reach = radius * np.clip(reach, 0.45, 1.7)
    return Polygon(np.column_stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)]))


def meander(start: Vector, end: Vector, rng: np.random.Generator, *, sway_m: float) -> LineString:
    """A winding line from ``start`` to ``end``."""
    t = np.linspace(0, 1, 160)
    direction = np.subtract(end, start)
    normal = np.array([-direction[1], direction[0]]) / np.hypot(*direction)
    offset = sum(sway_m / k * rng.normal() * np.sin(np.pi * k * 2 * t + rng.uniform(0, 6.3)) for k in range(1, 7))
    return LineString(np.asarray(start) + t[:, None] * direction + np.asarray(offset)[:, None] * normal)


def scattered(polygon: Polygon, spacing_m: float, rng: np.random.Generator) -> Ring:
    """Points inside ``polygon`` on a jittered grid, shape (n, 2)."""
    west, south, east, north = polygon.bounds
    x, y = np.meshgrid(np.arange(west, east, spacing_m), np.arange(south, north, spacing_m))
    points = np.column_stack([x.ravel(), y.ravel()])
    points += rng.uniform(-0.42, 0.42, points.shape) * spacing_m
    return np.asarray(points[shapely.contains_xy(polygon, points[:, 0], points[:, 1])])


def along(line: LineString, spacing_m: float, offset_m: float = 0.0) -> list[tuple[Vector, float]]:
    """Positions and directions (radians) every ``spacing_m`` along ``line``, ``offset_m`` to its left."""
    places = []
    for distance in np.arange(spacing_m / 2, line.length, spacing_m):
        here, there = line.interpolate(distance), line.interpolate(distance + 0.1)
        angle = float(np.arctan2(there.y - here.y, there.x - here.x))
        places.append(((here.x - offset_m * np.sin(angle), here.y + offset_m * np.cos(angle)), angle))
    return places
