"""SAM and HQ-SAM of the real classes, tiny and random: the backends against the predictors of the libraries."""

import pickle
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch

from dataflows import mask_backends
from dataflows.mask_backends import _samgeo
from dataflows.mask_backends._devices import autocast
from dataflows.mask_backends.sam import SamBackend, SamModel
from support import tiny_sam
from training.devices import resolved_device
from utils.errors import ConfigError, DeviceMemoryError, WeightsError
from utils.pixel_prompts import PixelPrompt
from utils.types import ChipGrid, Prompt, RasterChip

NAMES = ["sam", "sam_hq"]
X, Y = 500_000.0, 5_200_000.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def backend_of(weights: Path, name: str, **more: Any) -> SamBackend:
    backend = mask_backends.get(name, **{**tiny_sam.options(weights, name), **more})
    assert isinstance(backend, SamBackend)
    return backend


def model_of(weights: Path, name: str, **more: Any) -> SamModel:
    return backend_of(weights, name, **more)._load()


def predictor_of(weights: Path, name: str) -> Any:
    """The library's own, built and loaded by the library."""
    tiny_sam.register()
    if name == "sam":
        from segment_anything import SamPredictor, sam_model_registry
    else:
        from segment_anything_hq import SamPredictor, sam_model_registry

    path = tiny_sam.checkpoint(weights, name)
    return SamPredictor(sam_model_registry[tiny_sam.MODEL_TYPE](checkpoint=str(path)))


def image_of(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 180, (rows, cols, 3), dtype=np.uint8)
    image[rows // 4 : rows // 2, cols // 4 : cols // 2] = (30, 40, 80)
    return image


def told(
    size: tuple[int, int], *, box: bool = True, points: int = 0, previous: bool = False, seed: int = 0
) -> PixelPrompt:
    rng = np.random.default_rng(seed)
    rows, cols = size
    mask = np.zeros(size, np.bool_)
    mask[rows // 4 : rows // 2, cols // 4 : cols // 2] = True
    corners = np.sort(rng.uniform(0, 1, (2, 2)) * (cols, rows), axis=0).ravel().tolist()
    return PixelPrompt(
        state="inside",
        box=tuple(corners) if box else None,
        points=(rng.uniform(0, 1, (points, 2)) * (cols, rows)).astype(np.float32),
        point_labels=(np.arange(points) % 2 == 0).astype(np.int32),
        previous=mask if previous else None,
    )


def theirs(predictor: Any, image: np.ndarray, prompts: Sequence[PixelPrompt], **more: Any) -> tuple[Any, Any]:
    """The best of ``set_image`` and ``predict_torch``, told the same places: whole numbers are pixel centres there."""
    predictor.set_image(image)
    size = image.shape[:2]

    def placed(places: np.ndarray) -> torch.Tensor:
        return predictor.transform.apply_coords_torch(torch.as_tensor(places, dtype=torch.float64), size) - 0.5

    first = prompts[0]
    points = labels = boxes = masks = None
    if len(first.points):
        points = placed(np.stack([prompt.points for prompt in prompts]))
        labels = torch.as_tensor(np.stack([prompt.point_labels for prompt in prompts]))
    if first.box is not None:
        boxes = placed(np.array([prompt.box for prompt in prompts]).reshape(-1, 2, 2)).reshape(-1, 4)
    if first.previous is not None:
        side = predictor.model.prompt_encoder.mask_input_size[0]
        longest = max(size)
        square = np.zeros((len(prompts), 1, longest, longest), np.float32)
        square[:, 0, : size[0], : size[1]] = np.stack([prompt.previous for prompt in prompts])
        masks = torch.nn.functional.interpolate(torch.as_tensor(square), (side, side), mode="area") * 20 - 10
    logits, rated, _ = predictor.predict_torch(points, labels, boxes, masks, return_logits=True, **more)
    chosen = torch.arange(len(prompts)), rated.argmax(dim=1)
    return logits[chosen][:, None], rated[chosen][:, None]


ASKED = {
    "box": {},
    "point": {"box": False, "points": 1},
    "points with negatives": {"box": False, "points": 4},
    "box and points": {"points": 3},
    "box and mask": {"previous": True},
    "points and mask": {"box": False, "points": 2, "previous": True},
    "mask alone": {"box": False, "previous": True},
}


@pytest.mark.parametrize("size", [(96, 96), (64, 160), (512, 300), (30, 256)], ids=str)
@pytest.mark.parametrize("kind", ASKED)
def test_answers_are_those_of_the_librarys_predictor(
    weights: Path, name: str, kind: str, size: tuple[int, int]
) -> None:
    model, predictor, image = model_of(weights, name), predictor_of(weights, name), image_of(*size)
    prompts = [told(size, seed=seed, **ASKED[kind]) for seed in range(3)]
    (embedding,) = model.encode([image])
    decoded = model.decode(embedding, size, prompts)
    logits, rated = theirs(predictor, image, prompts)
    assert decoded.logits.shape == (3, 1, *size)
    assert decoded.logits.dtype == decoded.predicted_iou.dtype == torch.float32
    # the mask input is resampled once there and once here where the sides do not divide
    close = 1e-2 if ASKED[kind].get("previous") else 1e-6
    assert (decoded.logits - logits).abs().max() <= close
    assert (decoded.predicted_iou - rated).abs().max() <= close


def test_images_encoded_together_are_as_alone(weights: Path, name: str) -> None:
    model, predictor = model_of(weights, name), predictor_of(weights, name)
    sizes = [(96, 96), (64, 160), (300, 120)]
    images = [image_of(*size, seed=seed) for seed, size in enumerate(sizes)]
    together = model.encode(images)
    for image, size, embedding in zip(images, sizes, together, strict=True):
        predictor.set_image(image)
        features = embedding if name == "sam" else embedding[0]
        assert (features - predictor.features).abs().max() < 1e-5
        if name == "sam_hq":
            assert (embedding[1] - predictor.interm_features[0]).abs().max() < 1e-5
        logits, _ = theirs(predictor, image, [told(size)])
        assert (model.decode(embedding, size, [told(size)]).logits - logits).abs().max() < 1e-5


def test_an_embedding_does_not_keep_its_batch(weights: Path, name: str) -> None:
    one, many = (
        model_of(weights, name).encode([image_of(40, 40)]),
        model_of(weights, name).encode([image_of(40, 40)] * 4),
    )

    def held(embedding: Any) -> int:
        parts = embedding if isinstance(embedding, tuple) else (embedding,)
        return sum(part.untyped_storage().nbytes() for part in parts)

    assert held(one[0]) == held(many[0])


def test_one_candidate_and_the_high_quality_token(weights: Path) -> None:
    size = (96, 120)
    image, prompts = image_of(*size), [told(size, seed=seed) for seed in range(2)]
    for name, options, more in (
        ("sam", {"multimask": False}, {"multimask_output": False}),
        ("sam_hq", {"multimask": False}, {"multimask_output": False}),
        ("sam_hq", {"hq_token_only": True}, {"hq_token_only": True}),
    ):
        model = model_of(weights, name, **options)
        decoded = model.decode(model.encode([image])[0], size, prompts)
        logits, rated = theirs(predictor_of(weights, name), image, prompts, **more)
        assert decoded.logits.shape == (2, 1, *size)
        assert (decoded.logits - logits).abs().max() < 1e-6
        assert (decoded.predicted_iou - rated).abs().max() < 1e-6
    with pytest.raises(ConfigError, match="hq_token_only"):
        backend_of(weights, "sam_hq", hq_token_only="yes")  # noqa: S106 - a switch


@pytest.mark.parametrize("size", [(256, 256), (128, 256), (512, 512), (48, 64)], ids=str)
def test_a_point_lies_where_its_pixel_is(weights: Path, name: str, size: tuple[int, int]) -> None:
    """The encoding of a point in the middle of a cell of the embedding is that cell's own place."""
    model = model_of(weights, name)
    encoder = model._network.prompt_encoder
    cells = encoder.get_dense_pe()[0]
    caught: list[torch.Tensor] = []
    encoder.register_forward_hook(lambda _module, _told, found: caught.append(found[0]))
    pixels_per_cell = max(size) / cells.shape[-1]
    row, col = 2, 5
    prompt = replace(
        told(size, box=False, points=1),
        points=np.array([[(col + 0.5) * pixels_per_cell, (row + 0.5) * pixels_per_cell]], np.float32),
    )
    (embedding,) = model.encode([image_of(*size)])
    model.decode(embedding, size, [prompt])
    expected = cells[:, row, col] + encoder.point_embeddings[1].weight[0]
    assert (caught[0][0, 0] - expected).abs().max() < 1e-5


def test_an_earlier_mask_changes_the_answer_and_no_shape(weights: Path, name: str) -> None:
    size = (60, 200)
    model = model_of(weights, name)
    (embedding,) = model.encode([image_of(*size)])
    without, given = (model.decode(embedding, size, [told(size, previous=there)]) for there in (False, True))
    assert without.logits.shape == given.logits.shape
    assert without.predicted_iou.shape == given.predicted_iou.shape
    assert (without.logits - given.logits).abs().max() > 1e-3


def test_an_earlier_mask_is_handed_over_where_it_lies(weights: Path) -> None:
    size = (64, 128)
    model = model_of(weights, "sam")
    caught: list[torch.Tensor] = []
    model._network.prompt_encoder.mask_downscaling.register_forward_pre_hook(lambda _, told: caught.append(told[0]))
    (embedding,) = model.encode([image_of(*size)])
    model.decode(embedding, size, [told(size, previous=True)])
    (mask,) = caught
    # the model's side of 256 holds 128 columns; its mask input of 64 has one place for two of them
    assert mask.shape == (1, 1, 64, 64)
    expected = np.full((64, 64), -10.0)
    expected[8:16, 16:32] = 10.0
    middle = np.s_[9:15, 17:31]
    assert (mask[0, 0].numpy()[middle] == expected[middle]).all()
    outside = np.ones((64, 64), np.bool_)
    outside[7:17, 15:33] = False
    assert (mask[0, 0].numpy()[outside] == -10).all()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_answers_in_float32_and_keeps_the_prompts(weights: Path, name: str, precision: str) -> None:
    size = (128, 128)
    image, prompts = image_of(*size), [told(size, seed=seed, points=2) for seed in range(3)]
    whole, half = model_of(weights, name), model_of(weights, name, precision=precision)
    places: dict[int, torch.Tensor] = {}
    for number, model in enumerate((whole, half)):
        model._network.prompt_encoder.register_forward_hook(
            lambda _module, _told, found, number=number: places.__setitem__(number, found[0])
        )
    (exact,), (rough,) = whole.encode([image]), half.encode([image])
    expected, found = whole.decode(exact, size, prompts), half.decode(rough, size, prompts)
    assert found.logits.dtype == found.predicted_iou.dtype == torch.float32
    assert (places[0] == places[1]).all()
    assert 0 < (found.logits - expected.logits).abs().max() < 0.05


def test_precision_and_device_by_name() -> None:
    assert resolved_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolved_device("cpu") == "cpu"
    for wrong, told_so in (("gpu", "none torch knows"), ("cuda:99", "not on this machine")):
        with pytest.raises(ConfigError, match=told_so):
            resolved_device(wrong)
    for precision, expected in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast("cpu", precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("sam", "float32"),
        pytest.param("sam_hq", "float32", marks=pytest.mark.slow),
        pytest.param("sam", "bfloat16", marks=pytest.mark.slow),
        pytest.param("sam_hq", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_encoder_answers_the_same(
    weights: Path, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def traced(module: torch.nn.Module) -> Any:
        compiled.append(module)
        return original(module, backend="eager")

    original = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    plain = model_of(weights, name, precision=precision)
    assert not compiled
    model = model_of(weights, name, precision=precision, compile=True)
    assert compiled == [model._network.image_encoder]
    size = (64, 96)
    for count in (1, 3):
        images = [image_of(*size, seed=seed) for seed in range(count)]
        for one, other in zip(plain.encode(images), model.encode(images), strict=True):
            expected, found = (each.decode(made, size, [told(size)]) for each, made in ((plain, one), (model, other)))
            assert (expected.logits - found.logits).abs().max() < 1e-5
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_torch_compile_itself(weights: Path, name: str) -> None:
    size = (64, 96)
    plain, model = model_of(weights, name), model_of(weights, name, compile=True)
    for count in (1, 2):
        images = [image_of(*size, seed=seed) for seed in range(count)]
        for one, other in zip(plain.encode(images), model.encode(images), strict=True):
            expected, found = (each.decode(made, size, [told(size)]) for each, made in ((plain, one), (model, other)))
            assert (expected.logits - found.logits).abs().max() < 1e-3
    torch._dynamo.reset()


def test_answers_repeat_and_nothing_is_changed(weights: Path, name: str) -> None:
    size = (80, 100)
    model, image, prompts = model_of(weights, name), image_of(*size), [told(size, points=2, previous=True)]
    image.setflags(write=False)
    before = {key: value.clone() for key, value in model._network.state_dict().items()}
    first = model.decode(model.encode([image])[0], size, prompts)
    second = model.decode(model.encode([image[::1]])[0], size, prompts)
    assert (first.logits == second.logits).all()
    assert all((before[key] == value).all() for key, value in model._network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model._network.parameters())
    assert not model._network.training


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 3)], ids=str)
def test_images_of_extreme_shape(weights: Path, name: str, size: tuple[int, int]) -> None:
    model = model_of(weights, name)
    (embedding,) = model.encode([image_of(*size)])
    decoded = model.decode(embedding, size, [told(size, points=1, previous=True)])
    assert decoded.logits.shape[-2:] == size
    assert decoded.logits.isfinite().all()


def test_construction_prints_nothing_and_leaves_the_registry_alone(
    weights: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_sam.register()
    before = _samgeo.registered(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_of(weights, name)
    assert _samgeo.registered(name) == before
    assert capfd.readouterr() == ("", "")


def test_weights_that_do_not_fit_are_refused_by_name(weights: Path, name: str, tmp_path: Path) -> None:
    state = torch.load(tiny_sam.checkpoint(weights, name), weights_only=True)
    before = _samgeo.registered(name)
    some = next(iter(state))
    for change, message in (
        ({key: value for key, value in state.items() if key != some}, rf"1 missing \({some}"),
        ({**state, "more": torch.zeros(1)}, r"1 unknown \(more"),
        ({**state, some: torch.zeros(1)}, rf"1 of another shape \({some}"),
        ({**state, some: state[some] * float("nan")}, rf"1 not finite \({some}"),
    ):
        path = tmp_path / "weights.pth"
        torch.save(change, path)
        backend = mask_backends.get(name, **{**tiny_sam.options(weights, name), "checkpoint": str(path)})
        with pytest.raises(WeightsError, match=message):
            backend.load()  # type: ignore[attr-defined]
    assert _samgeo.registered(name) == before


@pytest.mark.slow
def test_a_published_architecture_at_its_real_size(tmp_path: Path) -> None:
    """The smallest: HQ-SAM's vit_tiny, 1024 pixels a side, with weights that are random."""
    from segment_anything_hq import SamPredictor, sam_model_registry

    network = sam_model_registry["vit_tiny"]().eval()
    path = tmp_path / "vit_tiny.pth"
    torch.save(network.state_dict(), path)
    backend = mask_backends.get("sam_hq", checkpoint=str(path), device="cpu")
    model = backend.load()  # type: ignore[attr-defined]
    size = (256, 200)
    prompts = [told(size, points=2, seed=seed) for seed in range(2)]
    decoded = model.decode(model.encode([image_of(*size)])[0], size, prompts)
    logits, _ = theirs(SamPredictor(network), image_of(*size), prompts)
    assert (decoded.logits - logits).abs().max() < 1e-5


def test_half_precision_weights_are_loaded(weights: Path, name: str, tmp_path: Path) -> None:
    state = torch.load(tiny_sam.checkpoint(weights, name), weights_only=True)
    path = tmp_path / "half.pth"
    torch.save({key: value.half() for key, value in state.items()}, path)
    backend = mask_backends.get(name, **{**tiny_sam.options(weights, name), "checkpoint": str(path)})
    network = backend.load()._network  # type: ignore[attr-defined]
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


def test_weights_of_plain_sam_are_no_hq_sam(weights: Path) -> None:
    path = str(tiny_sam.checkpoint(weights, "sam"))
    backend = mask_backends.get("sam_hq", **{**tiny_sam.options(weights, "sam_hq"), "checkpoint": path})
    with pytest.raises(WeightsError, match="missing"):
        backend.load()  # type: ignore[attr-defined]


def test_other_weights_give_other_masks(weights: Path, name: str) -> None:
    size = (64, 64)
    answers = []
    for seed in (0, 1):
        model = mask_backends.get(name, **tiny_sam.options(weights, name, seed=seed))._load()  # type: ignore[attr-defined]
        answers.append(model.decode(model.encode([image_of(*size)])[0], size, [told(size)]).logits)
    assert (answers[0] - answers[1]).abs().max() > 1e-3


def test_a_backend_travels_without_its_weights(weights: Path, name: str) -> None:
    backend = backend_of(weights, name)
    chip, prompts = chip_of(), prompts_of(3)
    expected = backend.segment(chip, prompts)
    sent = pickle.dumps(backend)
    assert len(sent) < 20_000
    again = pickle.loads(sent)  # noqa: S301 - ours
    for one, other in zip(expected, again.segment(chip, prompts), strict=True):
        assert (one.data == other.data).all()
        assert one.scores == other.scores


def chip_of(size: int = 96, seed: int = 0) -> RasterChip:
    return RasterChip(
        data=np.moveaxis(image_of(size, size, seed), -1, 0),
        valid=np.ones((size, size), np.bool_),
        grid=ChipGrid.around(X, Y, epsg=32632, gsd_m=0.3, height=size, width=size),
        bands=("red", "green", "blue"),
        source="test",
        scene_ids=("scene",),
        sensor="camera",
        acquired_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def prompts_of(count: int) -> list[Prompt]:
    rng = np.random.default_rng(4)
    found = []
    for number in range(count):
        x, y = rng.uniform(-10, 10, 2)
        box = shapely.box(X + x - 3, Y + y - 2, X + x + 3, Y + y + 2)
        found.append(Prompt(prompt_id=str(number), label_id="a", kind="box", geometry=box))
    return found


def limited(monkeypatch: pytest.MonkeyPatch, method: str, most: int) -> list[int]:
    """Let ``SamModel.method`` run out of GPU memory on more than ``most`` things; returns the sizes that were tried."""
    tried: list[int] = []
    original = getattr(SamModel, method)

    def tight(self: SamModel, *told: Any) -> Any:
        tried.append(len(told[-1]))
        if len(told[-1]) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return original(self, *told)

    monkeypatch.setattr(SamModel, method, tight)
    return tried


def test_prompts_that_do_not_fit_into_memory_go_in_halves(
    weights: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip, prompts = chip_of(), prompts_of(20)
    expected = backend_of(weights, name).segment(chip, prompts)
    tried = limited(monkeypatch, "decode", 5)
    backend = backend_of(weights, name)
    with warnings.catch_warnings(record=True) as told_of:
        warnings.simplefilter("always")
        found = backend.segment(chip, prompts)
    words = f"{name}: prompts: out of memory on cpu with {{}} at once; going on with {{}}"
    assert [str(each.message) for each in told_of] == [words.format(size, size // 2) for size in (32, 16, 8)]
    assert [size for size in tried if size > 5] == [32, 16, 8]
    assert all((one.data == other.data).all() for one, other in zip(expected, found, strict=True))
    assert [one.prompt_id for one in found] == [prompt.prompt_id for prompt in prompts]
    tried.clear()
    backend.segment(chip, prompts)
    assert max(tried) == 4


def test_images_that_do_not_fit_into_memory_go_in_halves(
    weights: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips, prompts = [chip_of(seed=seed) for seed in range(5)], [prompts_of(2)] * 5
    expected = backend_of(weights, name).segment_many(chips, prompts)
    tried = limited(monkeypatch, "encode", 1)
    with pytest.warns(RuntimeWarning, match="images: out of memory"):
        found = backend_of(weights, name).segment_many(chips, prompts)
    assert tried.count(1) == 5
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, list)
        assert isinstance(other, list)
        assert all((a.data == b.data).all() for a, b in zip(one, other, strict=True))


def test_a_single_image_that_does_not_fit_is_an_error(
    weights: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "encode", 0)
    with pytest.raises(DeviceMemoryError, match="take smaller chips"):
        backend_of(weights, name).segment(chip_of(), prompts_of(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_answers_as_the_cpu_does(weights: Path, name: str) -> None:
    chip, prompts = chip_of(), prompts_of(8)
    expected = backend_of(weights, name).segment(chip, prompts)
    for precision, least in (("float32", 0.99), ("auto", 0.9)):
        found = backend_of(weights, name, device="cuda", precision=precision).segment(chip, prompts)
        for one, other in zip(expected, found, strict=True):
            assert (one.data & other.data).sum() / max((one.data | other.data).sum(), 1) > least
