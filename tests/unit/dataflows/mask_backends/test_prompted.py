"""The base of promptable models, over a model that answers boxes with themselves and points with discs."""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import shapely
import torch

from dataflows.mask_backends._answers import Decoded, perturbed
from dataflows.mask_backends._prompted import PromptedBackend
from utils.errors import ConfigError, DeviceMemoryError, MaskError, UnknownNameError
from utils.pixel_prompts import pixel_prompt
from utils.tiles import shared_tiles
from utils.types import ChipGrid, Mask, Prompt, RasterChip

X, Y = 500_000.0, 5_200_000.0
RADIUS_PX = 5.0


class Toy:
    """Logits fall off with the distance from the box, or from the positive points; counts what it is asked."""

    device = "cpu"

    def __init__(self, *, room: int = 1000, nan: bool = False) -> None:
        self.room, self.nan = room, nan
        self.encoded: list[int] = []
        self.decoded: list[int] = []

    def encode(self, images: Sequence[np.ndarray]) -> list[Any]:
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        self.encoded.append(len(images))
        return [float(image.mean()) for image in images]

    def decode(self, embedding: Any, size: tuple[int, int], prompts: Sequence[Any]) -> Decoded:
        if len(prompts) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        assert len({prompt.signature for prompt in prompts}) == 1
        self.decoded.append(len(prompts))
        cols, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
        found = []
        for prompt in prompts:
            if prompt.box is not None:
                col0, row0, col1, row1 = prompt.box
                depth = np.minimum.reduce([cols - col0, col1 - cols, rows - row0, row1 - rows])
            else:
                on = prompt.points[prompt.point_labels == 1]
                depth = RADIUS_PX - np.min([np.hypot(cols - x, rows - y) for x, y in on], axis=0)
            for x, y in prompt.points[prompt.point_labels == 0]:
                depth = np.where(np.hypot(cols - x, rows - y) < RADIUS_PX, -9.0, depth)
            found.append(np.stack([np.full(size, -9.0), depth, depth + 3]))
        rated = np.tile([-0.3, 0.9, np.nan if self.nan else 0.5], (len(prompts), 1))
        return Decoded(logits=torch.tensor(np.array(found), dtype=torch.float32), predicted_iou=torch.tensor(rated))


class ToyBackend(PromptedBackend):
    name = "toy"
    model: Toy

    @classmethod
    def weights_files(cls, **options: object) -> Mapping[str, str]:
        return {}

    def _load(self) -> Toy:
        self.loads = getattr(self, "loads", 0) + 1
        return self.model


def backend_of(model: Toy | None = None, **options: object) -> ToyBackend:
    backend = ToyBackend(**options)
    backend.model = model or Toy()
    return backend


def chip_at(dx: float = 0.0, dy: float = 0.0, *, size: int = 64, gsd_m: float = 0.5, seed: int = 0) -> RasterChip:
    grid = ChipGrid.around(X + dx, Y + dy, epsg=32632, gsd_m=gsd_m, height=size, width=size)
    rng = np.random.default_rng(seed)
    return RasterChip(
        data=rng.integers(1, 255, (3, size, size), dtype=np.uint8),
        valid=np.ones((size, size), np.bool_),
        grid=grid,
        bands=("red", "green", "blue"),
        source="toy",
        scene_ids=("one",),
        sensor="toy",
        acquired_at=datetime(2024, 6, 1, tzinfo=UTC),
    )


def box_prompt(x: float, y: float, side: float, name: str = "p", **more: Any) -> Prompt:
    box = shapely.box(X + x - side / 2, Y + y - side / 2, X + x + side / 2, Y + y + side / 2)
    return Prompt(prompt_id=name, label_id=name, kind="box", geometry=box, **more)


def test_the_best_rated_candidate_answers_and_its_scores_are_real():
    (mask,) = backend_of().segment(chip_at(), [box_prompt(0, 0, 10)])
    assert mask.data.sum() == 400
    assert mask.scores["predicted_iou"] == pytest.approx(0.9)
    # depth above 1 against depth above -1: 18 of 22 pixels a side
    assert mask.scores["logit_stability"] == pytest.approx(18**2 / 22**2)
    assert mask.scores["box_agreement"] == 1.0
    assert mask.scores["rectangularity"] == 1.0
    grown, shifted = 20**2 / 22**2, 19 * 19 / (2 * 400 - 19 * 19)
    shrunk = 18**2 / 20**2
    assert mask.scores["stability"] == pytest.approx((grown + shrunk + 2 * shifted) / 4, abs=0.01)


def test_scores_stay_in_0_to_1_when_the_model_does_not():
    (mask,) = backend_of(Toy(nan=True)).segment(chip_at(), [box_prompt(0, 0, 10)])
    assert all(0 <= value <= 1 for value in mask.scores.values())


def test_order_count_and_company_do_not_matter():
    prompts = [box_prompt(0, 0, 6, "a"), box_prompt(40, 0, 6, "off"), box_prompt(15, 0, 6, "cut")]
    prompts += [Prompt(prompt_id="pt", label_id="pt", kind="point", geometry=shapely.Point(X - 5, Y))]
    prompts += [Prompt(prompt_id="poly", label_id="poly", kind="polygon", geometry=shapely.Point(X, Y + 5).buffer(3))]
    together = backend_of().segment(chip_at(), prompts)
    assert [mask.prompt_id for mask in together] == ["a", "off", "cut", "pt", "poly"]
    assert [mask.flags for mask in together[:4]] == [(), ("not_in_chip",), ("clipped",), ("point_only",)]
    for prompt, mask in zip(prompts, together, strict=True):
        (alone,) = backend_of().segment(chip_at(), [prompt])
        assert (alone.data == mask.data).all()
        assert (alone.scores, alone.flags) == (mask.scores, mask.flags)


def test_one_encode_serves_all_prompts_and_later_ones():
    model = Toy()
    backend = backend_of(model)
    backend.segment(chip_at(), [box_prompt(n, 0, 3, str(n)) for n in range(10)])
    backend.segment(chip_at(), [box_prompt(0, 5, 3)])
    assert model.encoded == [1]
    assert backend.loads == 1
    backend_of(model, cached_embeddings=0).segment(chip_at(), [box_prompt(0, 5, 3)])
    assert model.encoded == [1, 1]


def test_many_chips_are_encoded_in_batches_and_fail_alone():
    model = Toy()
    chips = [chip_at(seed=n) for n in range(6)]
    chips[2] = replace(chips[2], data=chips[2].data.astype(np.float32))
    found = backend_of(model, encode_batch=2).segment_many(chips, [[box_prompt(0, 0, 5)]] * 5 + [[]])
    assert model.encoded == [2, 2]
    assert isinstance(found[2], MaskError)
    assert [len(masks) for n, masks in enumerate(found) if n != 2] == [1, 1, 1, 1, 0]


def test_batches_are_halved_where_memory_runs_out_and_stay_so():
    model = Toy(room=3)
    backend = backend_of(model, encode_batch=8, prompts_per_call=16)
    chips = [chip_at(seed=n) for n in range(8)]
    with pytest.warns(RuntimeWarning, match="out of memory on cpu with 8 at once; going on with 4"):
        found = backend.segment_many(chips, [[box_prompt(0, 0, 5)]] * 8)
    assert all(isinstance(masks, list) for masks in found)
    assert max(model.encoded) <= 3
    assert max(model.decoded) <= 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.segment_many(chips, [[box_prompt(1, 0, 5)]] * 8)


def test_what_does_not_fit_alone_is_a_typed_error():
    with pytest.raises(DeviceMemoryError, match="single one"):
        backend_of(Toy(room=0)).segment(chip_at(), [box_prompt(0, 0, 5)])


def test_an_image_that_does_not_fit_fails_its_chip_alone():
    class Narrow(Toy):
        def encode(self, images: Sequence[np.ndarray]) -> list[Any]:
            if any(image.shape[0] > 64 for image in images):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().encode(images)

    chips = [chip_at(seed=1), chip_at(size=80), chip_at(seed=2)]
    with pytest.warns(RuntimeWarning, match="out of memory"):
        found = backend_of(Narrow()).segment_many(chips, [[box_prompt(0, 0, 5)]] * 3)
    assert isinstance(found[1], DeviceMemoryError)
    assert [len(found[n]) for n in (0, 2)] == [1, 1]


def test_other_runtime_errors_are_not_swallowed():
    class Broken(Toy):
        def encode(self, images: Sequence[np.ndarray]) -> list[Any]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        backend_of(Broken()).segment(chip_at(), [box_prompt(0, 0, 5)])


def test_chips_side_by_side_share_an_encode_and_keep_their_masks():
    chips = [chip_at(dx, dy, seed=int(dx + 2 * dy)) for dx in (0.0, 16.0) for dy in (0.0, 16.0)]
    prompts = [[box_prompt(dx + 2, dy + 1, 5)] for dx in (0.0, 16.0) for dy in (0.0, 16.0)]
    alone, shared = Toy(), Toy()
    one_by_one = backend_of(alone).segment_many(chips, prompts)
    together = backend_of(shared, tile_px=4096).segment_many(chips, prompts)
    assert sum(alone.encoded) == 4
    assert sum(shared.encoded) == len(shared_tiles(chips, 4096)) < 4
    for a, b in zip(one_by_one, together, strict=True):
        assert (a[0].data == b[0].data).all()
        assert a[0].grid == b[0].grid
        assert a[0].flags == b[0].flags


def test_previous_masks_and_points_reach_the_model():
    chip = chip_at()
    earlier = Mask(data=np.eye(64, dtype=np.bool_), grid=chip.grid, prompt_id="p")
    prompt = box_prompt(0, 0, 10, negative=((X + 2, Y + 2),), positive=((X, Y),), previous=earlier)
    (mask,) = backend_of().segment(chip, [prompt])
    assert not mask.data[28, 36]
    told = pixel_prompt(prompt, chip.grid)
    assert told.signature == (2, True, True)
    assert (told.previous == earlier.data).all()


def test_a_point_off_the_object_alone_asks_for_nothing():
    off, here = (X + 500, Y), (X + 3, Y)
    square = shapely.box(X - 5, Y - 5, X + 5, Y + 5)
    prompt = Prompt(prompt_id="p", label_id="p", kind="point", geometry=square, positive=(off,), negative=(here,))
    (mask,) = backend_of().segment(chip_at(), [prompt])
    assert mask.flags == ("point_only", "empty")
    assert not mask.data.any()


def test_values_of_other_types_need_a_stated_stretch():
    chip = chip_at()
    wide = replace(chip, data=(chip.data.astype(np.uint16) * 16))
    with pytest.raises(MaskError, match="stretch"):
        backend_of().segment(wide, [box_prompt(0, 0, 5)])
    (mask,) = backend_of(stretch=[0, 4080]).segment(wide, [box_prompt(0, 0, 5)])
    assert mask.data.any()
    holes = chip.data.astype(np.float32)
    holes[1, 30:34, 30:34] = np.nan
    (mask,) = backend_of(stretch=[0, 255]).segment(replace(chip, data=holes), [box_prompt(0, 0, 5)])
    assert not mask.data[30:34, 30:34].any()
    assert mask.data.any()


def test_weights_do_not_travel():
    backend = backend_of()
    backend.segment(chip_at(), [box_prompt(0, 0, 5)])
    sent = pickle.loads(pickle.dumps(backend))  # noqa: S301 - our own bytes
    assert sent._model is None
    assert not sent._kept
    assert backend._model is not None


@pytest.mark.parametrize(
    "options",
    [
        {"encode_batch": 0},
        {"prompts_per_call": 1.5},
        {"precision": "int8"},
        {"stretch": [5, 5]},
        {"stretch": "auto"},
        {"threads": 0},
        {"compile": "yes"},
        {"tile_px": -1},
        {"device": ""},
    ],
)
def test_options_no_model_could_run_with_are_refused(options):
    with pytest.raises(ConfigError):
        backend_of(**options)


def test_unknown_options_list_those_there_are():
    with pytest.raises(UnknownNameError, match="prompts_per_call"):
        backend_of(batch=3)


def test_moved_prompts_stay_on_the_image():
    chip = chip_at()
    for prompt in (
        box_prompt(0, 0, 31),
        Prompt(prompt_id="p", label_id="p", kind="point", geometry=shapely.Point(X, Y)),
    ):
        told = pixel_prompt(prompt, chip.grid)
        moved = perturbed(told, (64, 64))
        assert len(moved) == 4
        for one in moved:
            assert one.signature == told.signature
            assert (one.points >= 0).all()
            assert (one.points <= 64).all()
            assert one.box is None or (min(one.box) >= 0 and max(one.box) <= 64)
