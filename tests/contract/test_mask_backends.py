"""What every registered mask backend keeps, whatever it is made of."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import affinity

from dataflows import mask_backends
from support import tiny_hf, tiny_sam, tiny_sam2
from utils.errors import BandError, ConfigError, CRSError, MaskError, UnknownNameError
from utils.prompts import to_pixels
from utils.quality import iou
from utils.types import BatchedBackend, ChipGrid, Mask, MaskBackend, Prompt, RasterChip

X, Y, GSD_M = 500_000.0, 5_200_000.0, 0.3


@dataclass(frozen=True)
class Case:
    """A backend as the suite builds it."""

    name: str
    options: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] = field(default_factory=dict)
    """Its options, or what makes them: given a folder, it writes weights there and names them."""
    segments: bool = True
    """Whether its masks mean something: False for random weights."""

    def build(self, **more: Any) -> MaskBackend:
        return mask_backends.get(self.name, **{**self.options, **more})


CASES = [
    Case("classical"),
    Case("sam", lambda folder: tiny_sam.options(folder, "sam"), segments=False),
    Case("sam_hq", lambda folder: tiny_sam.options(folder, "sam_hq"), segments=False),
    Case("sam2", tiny_sam2.write, segments=False),
    Case("sam_hf", lambda folder: {"model_id": str(tiny_hf.write(folder, "sam2"))}, segments=False),
    Case("sam_hf", tiny_hf.asked_by_words, segments=False),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made = request.param
    return replace(made, options=made.options(tmp_path_factory.mktemp(made.name))) if callable(made.options) else made


@pytest.fixture(scope="module")
def shared(case: Case) -> MaskBackend:
    """One backend for all tests of a case: a model is loaded once, as a build does."""
    return case.build()


@pytest.fixture
def backend(shared: MaskBackend) -> MaskBackend:
    return shared


def grid_of(height: int = 128, width: int = 160, degrees: float = 0.0, epsg: int = 32632) -> ChipGrid:
    centre = Affine.translation(X, Y) @ Affine.rotation(degrees) @ Affine.scale(GSD_M, -GSD_M)
    turned = centre @ Affine.translation(-width / 2, -height / 2)
    return ChipGrid(epsg=epsg, transform=tuple(turned)[:6], height=height, width=width)


def inside(shape: shapely.Geometry, grid: ChipGrid) -> NDArray[np.bool_]:
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    return shapely.contains_xy(to_pixels(shape, grid), cols, rows)


def chip_of(grid: ChipGrid, *panels: shapely.Geometry, valid: NDArray[np.bool_] | None = None) -> RasterChip:
    """Dark blue panels on a noisy grey roof beside a green field; nothing in it can be written to."""
    rng = np.random.default_rng(0)
    shape = (grid.height, grid.width)
    x = np.broadcast_to(np.arange(grid.width), shape)
    rgb = np.where(
        x < grid.width * 0.7, np.array([165, 155, 150])[:, None, None], np.array([90, 130, 70])[:, None, None]
    )
    for panel in panels:
        rgb = np.where(inside(panel, grid), np.array([35, 45, 80])[:, None, None], rgb)
    data = np.clip(rgb + rng.normal(0, 6, rgb.shape), 1, 255).astype(np.uint8)
    valid = np.ones(shape, dtype=np.bool_) if valid is None else valid
    data[:, ~valid] = 0
    data.setflags(write=False)
    valid.setflags(write=False)
    return RasterChip(
        data=data,
        valid=valid,
        grid=grid,
        bands=("red", "green", "blue"),
        source="test",
        scene_ids=("scene",),
        sensor="camera",
        acquired_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def prompt(geometry: shapely.Geometry, kind: str = "box", name: str = "p") -> Prompt:
    return Prompt(prompt_id=name, label_id=name, kind=kind, geometry=geometry)


def panel_at(dx: float, dy: float, width: float = 9.0, height: float = 6.0) -> shapely.Polygon:
    return shapely.box(X + dx - width / 2, Y + dy - height / 2, X + dx + width / 2, Y + dy + height / 2)


def check(masks: list[Mask], chip: RasterChip, prompts: list[Prompt]) -> None:
    """The part of the contract that holds for every answer."""
    assert [mask.prompt_id for mask in masks] == [each.prompt_id for each in prompts]
    for mask in masks:
        assert mask.grid == chip.grid
        assert mask.data.dtype == np.bool_
        assert mask.data.shape == chip.valid.shape
        assert not (mask.data & ~chip.valid).any()
        assert all(0.0 <= score <= 1.0 and np.isfinite(score) for score in mask.scores.values())
        assert len(set(mask.flags)) == len(mask.flags)
        assert mask.data.any() or {"empty", "not_in_chip"} & set(mask.flags)


def run(backend: MaskBackend, chip: RasterChip, *prompts: Prompt) -> list[Mask]:
    masks = backend.segment(chip, list(prompts))
    check(masks, chip, list(prompts))
    return masks


def test_every_registered_backend_is_tested() -> None:
    assert {case.name for case in CASES} == set(mask_backends.names())


def test_protocol_and_name(case: Case, backend: MaskBackend) -> None:
    assert isinstance(backend, MaskBackend)
    assert backend.name == case.name


def test_unknown_option_lists_those_that_exist(case: Case) -> None:
    with pytest.raises(UnknownNameError, match="known: "):
        mask_backends.get(case.name, **case.options, no_such_option=1)


def test_no_prompts_no_masks(backend: MaskBackend) -> None:
    assert run(backend, chip_of(grid_of())) == []


def test_order_and_count(backend: MaskBackend) -> None:
    places = [panel_at(-12, 8), panel_at(12, -8), panel_at(-12, -8), panel_at(500, 0), panel_at(12, 8)]
    chip = chip_of(grid_of(), *places)
    masks = run(backend, chip, *(prompt(place, name=str(number)) for number, place in enumerate(places)))
    assert ["not_in_chip" in mask.flags for mask in masks] == [False, False, False, True, False]
    assert not masks[3].data.any()


def test_same_input_same_masks(case: Case) -> None:
    chip = chip_of(grid_of(), panel_at(0, 0))
    prompts = [prompt(panel_at(0.5, 0.4)), prompt(panel_at(0, 0), "point"), prompt(panel_at(0, 0).buffer(1), "polygon")]
    first, second = run(case.build(), chip, *prompts), run(case.build(), chip, *prompts)
    for a, b in zip(first, second, strict=True):
        assert (a.data == b.data).all()
        assert (a.scores, a.flags) == (b.scores, b.flags)


def test_a_prompt_is_answered_alike_in_any_company(backend: MaskBackend) -> None:
    chip = chip_of(grid_of(), panel_at(-12, 8), panel_at(12, -8))
    one, other = prompt(panel_at(-12, 8), name="a"), prompt(panel_at(12, -8), name="b")
    (alone,) = run(backend, chip, one)
    together = run(backend, chip, other, one)[1]
    assert (alone.data == together.data).all()


@pytest.mark.parametrize("degrees", [0.0, 30.0, -100.0])
def test_masks_lie_where_the_object_is(case: Case, backend: MaskBackend, degrees: float) -> None:
    grid = grid_of(degrees=degrees)
    panel = affinity.rotate(panel_at(3, -4), 15)
    chip = chip_of(grid, panel)
    box, polygon = run(backend, chip, prompt(panel.envelope), prompt(panel, "polygon"))
    if case.segments:
        assert iou(box.data, inside(panel, grid)) > 0.8
        assert iou(polygon.data, inside(panel, grid)) > 0.8


def test_a_clipped_prompt_says_so(case: Case, backend: MaskBackend) -> None:
    grid = grid_of()
    panel = panel_at(-24, 0)
    (mask,) = run(backend, chip_of(grid, panel), prompt(panel))
    assert "clipped" in mask.flags
    if case.segments:
        assert iou(mask.data, inside(panel, grid)) > 0.8


def test_point_prompts_say_so(case: Case, backend: MaskBackend) -> None:
    grid = grid_of()
    chip = chip_of(grid, panel_at(2, 1, 8, 5))
    bare, boxed, outside = run(
        backend,
        chip,
        prompt(shapely.Point(X + 2, Y + 1), "point"),
        prompt(shapely.Point(X + 2, Y + 1).buffer(6).envelope, "point"),
        prompt(shapely.Point(X + 60, Y), "point"),
    )
    assert "point_only" in bare.flags
    assert "point_only" in boxed.flags
    assert outside.flags == ("not_in_chip",)
    if case.segments:
        assert iou(bare.data, inside(panel_at(2, 1, 8, 5), grid)) > 0.8


@pytest.mark.parametrize("kind", ["box", "point", "polygon"])
@pytest.mark.parametrize("side", [0.05, 0.3, 1.0, 2.0])
def test_tiny_prompts(backend: MaskBackend, kind: str, side: float) -> None:
    chip = chip_of(grid_of(), panel_at(0, 0, side, side))
    (mask,) = run(backend, chip, prompt(panel_at(0.07, 0.07, side, side), kind))
    if kind == "box":
        assert "small" in mask.flags


@pytest.mark.parametrize("kind", ["box", "polygon"])
def test_a_prompt_that_is_the_chip(backend: MaskBackend, kind: str) -> None:
    grid = grid_of()
    chip = chip_of(grid, panel_at(0, 0, 100, 100))
    (mask,) = run(backend, chip, prompt(grid.footprint, kind))
    assert mask.data.any()


def test_nodata_is_never_the_object(case: Case, backend: MaskBackend) -> None:
    grid = grid_of()
    valid = np.ones((grid.height, grid.width), dtype=np.bool_)
    valid[:, 80:] = False
    chip = chip_of(grid, panel_at(0, 0), valid=valid)
    (mask,) = run(backend, chip, prompt(panel_at(0, 0)))
    if case.segments:
        assert iou(mask.data, inside(panel_at(0, 0), grid) & valid) > 0.8


@pytest.mark.parametrize("kind", ["box", "point", "polygon"])
def test_an_all_nodata_chip_gives_empty_masks(backend: MaskBackend, kind: str) -> None:
    grid = grid_of()
    chip = chip_of(grid, valid=np.zeros((grid.height, grid.width), dtype=np.bool_))
    (mask,) = run(backend, chip, prompt(panel_at(0, 0), kind))
    assert "empty" in mask.flags


@pytest.mark.parametrize("value", [1, 128, 255])
def test_a_chip_of_one_colour_is_answered(backend: MaskBackend, value: int) -> None:
    chip = chip_of(grid_of())
    flat = replace(chip, data=np.full_like(chip.data, value))
    run(backend, flat, prompt(panel_at(0, 0)), prompt(panel_at(0, 0), "point"), prompt(panel_at(0, 0), "polygon"))


def test_many_prompts_on_one_chip(case: Case, backend: MaskBackend) -> None:
    """500 prompts of all kinds, some of them off the chip: each is answered as it is alone."""
    chip = chip_of(grid_of(96, 96), panel_at(0, 0))
    rng = np.random.default_rng(1)
    kinds = ("box", "point", "polygon")
    prompts = [
        prompt(panel_at(*rng.uniform(-16, 16, 2), 3, 3), kinds[number % 3], name=str(number)) for number in range(500)
    ]
    masks = run(backend, chip, *prompts)
    assert len(masks) == 500
    for number in (0, 1, 2, 250, 498, 499):
        (alone,) = run(backend, chip, prompts[number])
        assert iou_or_both_empty(alone, masks[number]) > (0.999 if case.segments else 0.9)


def iou_or_both_empty(one: Mask, other: Mask) -> float:
    return iou(one.data, other.data) if one.data.any() or other.data.any() else 1.0


@pytest.mark.parametrize("shape", [(32, 200), (200, 32), (1, 64), (64, 1), (1, 1), (97, 131)], ids=str)
@pytest.mark.parametrize("kind", ["box", "point", "polygon"])
def test_chips_of_any_shape(backend: MaskBackend, shape: tuple[int, int], kind: str) -> None:
    grid = grid_of(*shape)
    chip = chip_of(grid, panel_at(0, 0, 4, 3))
    run(backend, chip, prompt(panel_at(0, 0, 4, 3), kind), prompt(grid.footprint, kind, "all"))


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_a_box_of_one_pixel(backend: MaskBackend, degrees: float) -> None:
    grid = grid_of(degrees=degrees)
    corners = [(80, 60), (81, 60), (81, 61), (80, 61)]
    pixel = shapely.Polygon([grid.affine @ corner for corner in corners])
    (mask,) = run(backend, chip_of(grid, panel_at(0, 0)), prompt(pixel))
    assert "small" in mask.flags


def test_points_on_and_off_the_object(backend: MaskBackend) -> None:
    """Several points, negatives among them, with a box and without; a box and points is one prompt, not several."""
    chip = chip_of(grid_of(), panel_at(0, 0))
    on, off = ((X - 2.0, Y), (X + 2.0, Y + 1)), ((X + 12.0, Y + 8), (X, Y - 8))
    asked = [
        replace(prompt(panel_at(0, 0), name="box"), positive=on, negative=off),
        replace(prompt(panel_at(0, 0), "polygon", name="polygon"), negative=off),
        replace(prompt(shapely.Point(X, Y), "point", name="points"), positive=on, negative=off),
        replace(prompt(shapely.Point(X, Y), "point", name="far"), positive=on, negative=((X + 500.0, Y),)),
    ]
    masks = run(backend, chip, *asked)
    assert ["point_only" in mask.flags for mask in masks] == [False, False, True, True]


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_an_earlier_mask_is_a_prompt(backend: MaskBackend, degrees: float) -> None:
    """On the chip's grid, on another grid, and empty; a backend that takes none says so."""
    grid, panel = grid_of(degrees=degrees), panel_at(0, 0)
    chip, other = chip_of(grid, panel), grid_of(50, 70, degrees=-15)
    asked = [
        replace(prompt(panel, name=str(number)), previous=Mask(data=data, grid=lies, prompt_id="earlier"))
        for number, (data, lies) in enumerate(
            [
                (inside(panel, grid), grid),
                (inside(panel, other), other),
                (np.zeros((grid.height, grid.width), np.bool_), grid),
            ]
        )
    ]
    with refusal_of_earlier_masks():
        run(backend, chip, *asked)


@contextmanager
def refusal_of_earlier_masks() -> Iterator[None]:
    """Models that are asked by words take no earlier masks; then the error has to say so."""
    try:
        yield
    except MaskError as error:
        assert "no earlier masks" in str(error)  # noqa: PT017 - one of two right answers


def test_input_is_left_as_it_was(backend: MaskBackend) -> None:
    """``chip_of`` gives arrays nobody can write to; prompts and earlier masks are not written to either."""
    chip, panel = chip_of(grid_of(), panel_at(0, 0)), panel_at(0, 0)
    earlier = Mask(data=inside(panel, chip.grid), grid=chip.grid, prompt_id="earlier")
    earlier.data.setflags(write=False)
    data, valid = chip.data.copy(), chip.valid.copy()
    run(backend, chip, prompt(panel))
    with refusal_of_earlier_masks():
        run(backend, chip, replace(prompt(panel), previous=earlier))
    assert (chip.data == data).all()
    assert (chip.valid == valid).all()


def sixteen_bit(chip: RasterChip, dtype: type[np.generic], low: float, high: float) -> RasterChip:
    """The chip's values 1 to 255 spread from ``low`` to ``high``, as another kind of number."""
    spread = low + (chip.data.astype(np.float64) - 1) / 254 * (high - low)
    return replace(chip, data=np.where(chip.valid, spread, 0).astype(dtype))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32], ids=lambda kind: kind.__name__)
def test_other_numbers_are_read_with_a_stated_stretch(case: Case, dtype: type[np.generic]) -> None:
    chip = chip_of(grid_of(), panel_at(0, 0))
    asked = [prompt(panel_at(0.5, 0.4)), prompt(panel_at(0, 0), "polygon", "polygon")]
    low, high = (0.05, 0.6) if dtype is np.float32 else (200, 12_900)
    plain = run(case.build(), chip, *asked)
    stretched = run(case.build(stretch=[low, high]), sixteen_bit(chip, dtype, low, high), *asked)
    for one, other in zip(plain, stretched, strict=True):
        assert iou_or_both_empty(one, other) > 0.99


def test_values_beyond_the_stretch_are_its_ends(case: Case) -> None:
    chip = sixteen_bit(chip_of(grid_of(), panel_at(0, 0)), np.uint16, 100, 2000)
    wild = chip.data.copy()
    wild[:, :5, :5] = 65_535
    backend = case.build(stretch=[100, 2000])
    run(backend, replace(chip, data=wild), prompt(panel_at(0, 0)), prompt(panel_at(-20, 15), "point", "in it"))


def test_what_is_no_number_is_nodata(case: Case) -> None:
    chip = sixteen_bit(chip_of(grid_of(), panel_at(0, 0)), np.float32, 0.0, 1.0)
    holes = chip.data.copy()
    holes[0, 40:70, 90:] = np.nan
    holes[1, 10:20, :] = np.inf
    holed = replace(chip, data=holes)
    backend = case.build(stretch=[0.0, 1.0])
    masks = run(backend, holed, prompt(panel_at(0, 0)), prompt(panel_at(9, 2, 3, 3), "polygon", "in the hole"))
    for mask in masks:
        assert not (mask.data & ~np.isfinite(holes).all(axis=0)).any()
    blank = replace(chip, data=np.full_like(chip.data, np.nan))
    (mask,) = run(backend, blank, prompt(panel_at(0, 0)))
    assert "empty" in mask.flags


@pytest.mark.parametrize("stretch", [[5, 5], [9, 1], [0], "0-255", [0, float("nan")], [0, None]], ids=str)
def test_a_stretch_that_says_nothing_is_refused(case: Case, stretch: object) -> None:
    with pytest.raises(ConfigError, match="stretch"):
        case.build(stretch=stretch)


def test_many_chips_at_once_are_answered_as_alone(case: Case, backend: MaskBackend) -> None:
    if not isinstance(backend, BatchedBackend):
        assert case.name == "classical"
        return
    chips = [chip_of(grid_of(64 + 16 * number, 96), panel_at(0, 0)) for number in range(5)]
    asked = [[prompt(panel_at(number, 0)), prompt(panel_at(0, number), "point", "b")] for number in range(5)]
    bad = replace(chips[2], data=chips[2].data[:1], bands=("red",))
    together = backend.segment_many([*chips[:2], bad, *chips[3:]], [*asked[:3], [], asked[4]])
    assert isinstance(together[2], BandError)
    assert together[3] == []
    for number in (0, 1, 4):
        found = together[number]
        assert isinstance(found, list)
        check(found, chips[number], asked[number])
        for one, other in zip(found, run(backend, chips[number], *asked[number]), strict=True):
            assert iou_or_both_empty(one, other) > 0.999


def _with_bands(chip: RasterChip, bands: tuple[str, ...]) -> RasterChip:
    return replace(chip, data=np.resize(chip.data, (len(bands), *chip.valid.shape)), bands=bands)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda chip: _with_bands(chip, ("red",)), BandError),
        (lambda chip: _with_bands(chip, ("red", "green", "blue", "nir")), BandError),
        (lambda chip: replace(chip, data=chip.data.astype(np.uint16)), MaskError),
        (lambda chip: replace(chip, data=chip.data.astype(np.float32)), MaskError),
        (lambda chip: replace(chip, grid=replace(chip.grid, epsg=4326)), CRSError),
    ],
    ids=["one band", "four bands", "uint16", "float32", "geographic grid"],
)
def test_unusable_chips_are_refused(
    backend: MaskBackend, change: Callable[[RasterChip], RasterChip], error: type[Exception]
) -> None:
    with pytest.raises(error):
        backend.segment(change(chip_of(grid_of())), [prompt(panel_at(0, 0))])


def test_unknown_backend_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*classical"):
        mask_backends.get("oracle")
