"""The backend ``sam_hf`` over tiny models of transformers' own classes, against their processors."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dataflows import mask_backends
from dataflows.mask_backends import _hf_networks
from dataflows.mask_backends._hf_networks import PointBoxModel
from dataflows.mask_backends._hf_text import Instances, TextModel, instances, meant
from dataflows.mask_backends.sam_hf import SamHfBackend
from support import tiny_hf
from support.hub_cache import put
from utils.errors import (
    ConfigError,
    DownloadForbiddenError,
    ExtraMissingError,
    MaskError,
    UnknownNameError,
    WeightsError,
    WeightsNotFoundError,
)
from utils.pixel_prompts import PixelPrompt

SIZES = [(96, 96), (100, 130), (257, 60), (3, 50)]
POINT_KINDS = ("sam", "sam2", "sam2_video", "sam3_tracker", "sam3_video")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_hf.write(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(folder: Path, **options: Any) -> Any:
    return SamHfBackend(model_id=str(folder), device="cpu", **options).load()


def image_of(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def prompt_of(
    size: tuple[int, int], *, box: bool = True, points: int = 0, previous: bool = False, seed: int = 0
) -> PixelPrompt:
    rng = np.random.default_rng(seed)
    limits = np.array([size[1], size[0]])
    low, high = rng.uniform(0.05, 0.4, 2) * limits, rng.uniform(0.5, 0.95, 2) * limits
    mask = np.zeros(size, np.bool_)
    mask[int(low[1]) : int(high[1]), int(low[0]) : int(high[0])] = True
    return PixelPrompt(
        state="inside",
        box=(*low.tolist(), *high.tolist()) if box else None,
        points=(rng.uniform(0.1, 0.9, (points, 2)) * limits).astype(np.float32),
        point_labels=np.array([1, 0, 1, 0][:points], np.int32),
        previous=mask if previous else None,
    )


def asked(model: PointBoxModel, image: np.ndarray, prompt: PixelPrompt, *, multimask: bool) -> tuple[Any, Any]:
    """The best answer of the network and processor as their documentation says to use them, one prompt at a time."""
    network, processor = model.network, model._processor
    size = image.shape[:2]
    shown = processor(images=[image], return_tensors="pt", input_data_format="channels_last")
    side = network.prompt_encoder.input_image_size
    filled = shown["reshaped_input_sizes"][0].tolist() if "reshaped_input_sizes" in shown else [side, side]
    scale = np.array([filled[1] / size[1], filled[0] / size[0]])
    told: dict[str, Any] = {}
    if prompt.box is not None:
        corners = np.array(prompt.box).reshape(2, 2) * scale - 0.5
        told["input_boxes"] = torch.tensor(corners.reshape(1, 1, 4), dtype=torch.float32)
    if len(prompt.points):
        told["input_points"] = torch.tensor(prompt.points * scale - 0.5, dtype=torch.float32)[None, None]
        told["input_labels"] = torch.tensor(prompt.point_labels)[None, None]
    if prompt.previous is not None:
        low = [4 * step for step in network.prompt_encoder.image_embedding_size]
        part = [max(1, round(a / side * b)) for a, b in zip(filled, low, strict=True)]
        mask = torch.tensor(prompt.previous, dtype=torch.float32)[None, None]
        canvas = torch.full((1, 1, *low), -10.0)
        small = torch.nn.functional.interpolate(mask, part, mode="bilinear", antialias=True)
        canvas[..., : part[0], : part[1]] = small * 20 - 10
        told["input_masks"] = canvas
    with torch.no_grad():
        answer = network(pixel_values=shown["pixel_values"], multimask_output=multimask, **told)
    more = [shown[name] for name in ("original_sizes", "reshaped_input_sizes") if name in shown]
    (logits,) = processor.post_process_masks(answer.pred_masks, *more, binarize=False)
    rated = answer.iou_scores[0, 0]
    best = int(rated.argmax())
    return logits[0, best], rated[best]


@pytest.mark.parametrize("kind", POINT_KINDS)
@pytest.mark.parametrize("multimask", [True, False])
def test_answers_are_those_of_network_and_processor(folder_of, no_network, kind, multimask) -> None:
    model = model_of(folder_of(kind), multimask=multimask)
    told = [{}, {"box": False, "points": 3}, {"points": 2}, {"previous": True}, {"points": 1, "previous": True}]
    images = [image_of(size, number) for number, size in enumerate(SIZES)]
    for size, image, embedding in zip(SIZES, images, model.encode(images), strict=True):
        for kinds in told:
            prompts = [prompt_of(size, seed=seed, **kinds) for seed in range(2)]
            decoded = model.decode(embedding, size, prompts)
            assert decoded.logits.shape == (2, 1, *size)
            assert decoded.logits.dtype == decoded.predicted_iou.dtype == torch.float32
            for number, prompt in enumerate(prompts):
                logits, rated = asked(model, image, prompt, multimask=multimask)
                torch.testing.assert_close(decoded.logits[number, 0], logits, rtol=1e-3, atol=1e-4)
                torch.testing.assert_close(decoded.predicted_iou[number, 0], rated, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sam", "sam2", "sam3_tracker"])
def test_what_is_told_changes_the_answer(folder_of, kind) -> None:
    size, model = SIZES[1], model_of(folder_of(kind))
    (embedding,) = model.encode([image_of(size)])
    kinds = [{}, {"points": 2}, {"previous": True}, {"box": False, "points": 2}]
    answers = [model.decode(embedding, size, [prompt_of(size, **kind)]).logits for kind in kinds]
    pairs = [(a, b) for n, a in enumerate(answers) for b in answers[:n]]
    assert all((a - b).abs().max() > 1e-3 for a, b in pairs)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_bfloat16_stays_close(folder_of, kind) -> None:
    size = SIZES[0]
    exact, rough = (model_of(folder_of(kind), precision=precision) for precision in ("float32", "bfloat16"))
    prompts = [prompt_of(size, seed=seed) for seed in range(3)]
    (a, b) = (model.decode(model.encode([image_of(size)])[0], size, prompts) for model in (exact, rough))
    assert b.logits.dtype == torch.float32
    assert 0 < (a.logits - b.logits).abs().max() < 0.2 * a.logits.abs().max()


def test_images_of_a_video_model_are_those_of_its_own_parts(folder_of) -> None:
    """Meta's SAM 2 and 3 are published as video models; their image half is read from them whole."""
    import transformers

    theirs = transformers.Sam3VideoModel.from_pretrained(folder_of("sam3_video"))
    ours = model_of(folder_of("sam3_video")).network
    own = dict(theirs.tracker_model.named_parameters())
    shared = [name for name, _ in ours.named_parameters() if name in own]
    assert len(shared) > 50
    assert all(torch.equal(dict(ours.named_parameters())[name], own[name]) for name in shared)
    neck = dict(theirs.tracker_neck.named_parameters())
    assert all(torch.equal(value, neck[name]) for name, value in ours.vision_encoder.neck.named_parameters())


def test_files_are_all_the_model_is_read_from(folder_of, tmp_path) -> None:
    assert set(SamHfBackend.weights_files(model_id=str(folder_of("sam2")))) == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    assert set(SamHfBackend.weights_files(model_id=str(folder_of("sam3")), text="solar panel")) == {
        "config.json",
        "processor_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    parts = tiny_hf.write(tmp_path, "sam2", max_shard_size="400KB")
    found = SamHfBackend.weights_files(model_id=str(parts))
    shards = sorted(path.name for path in parts.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert set(found) == {"config.json", "preprocessor_config.json", "model.safetensors.index.json", *shards}
    whole, split = model_of(folder_of("sam2")).network, model_of(parts).network
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), split.parameters(), strict=True))
    (parts / shards[1]).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"lacks {shards[1]}"):
        SamHfBackend.weights_files(model_id=str(parts))


def test_weights_that_are_a_pickle_are_read_too(folder_of, tmp_path) -> None:
    source = folder_of("sam2")
    from safetensors.torch import load_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    torch.save(load_file(source / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin" in SamHfBackend.weights_files(model_id=str(tmp_path))
    pairs = zip(model_of(source).network.parameters(), model_of(tmp_path).network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def spoiled(source: Path, target: Path, name: str, content: bytes | None) -> Path:
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    if content is None:
        (target / name).unlink()
    else:
        (target / name).write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("config.json", None, WeightsNotFoundError, "no config.json"),
        ("config.json", b"{", WeightsError, "no JSON"),
        ("config.json", b"[1]", WeightsError, "holds a list"),
        ("config.json", b"{}", WeightsError, "no `model_type`"),
        ("config.json", b'{"model_type": "bert"}', WeightsError, "type 'bert'.*sam3_tracker"),
        ("preprocessor_config.json", None, WeightsNotFoundError, "no preprocessor_config.json"),
        ("model.safetensors", None, WeightsNotFoundError, "no weights"),
        ("model.safetensors", b"", WeightsError, "corrupt or truncated"),
        ("model.safetensors", b"version https://git-lfs", WeightsError, "corrupt or truncated"),
    ],
)
def test_unusable_folders_are_refused_before_work(folder_of, tmp_path, no_network, name, content, error, words) -> None:
    folder = spoiled(folder_of("sam2"), tmp_path, name, content)
    with pytest.raises(error, match=words.replace("`", ".")):
        mask_backends.get("sam_hf", model_id=str(folder), download=True)


def test_truncated_weights_are_refused_before_work(folder_of, tmp_path) -> None:
    whole = (folder_of("sam2") / "model.safetensors").read_bytes()
    folder = spoiled(folder_of("sam2"), tmp_path, "model.safetensors", whole[:-100])
    with pytest.raises(WeightsError, match="corrupt or truncated"):
        mask_backends.get("sam_hf", model_id=str(folder))


def test_weights_of_another_model_are_refused(folder_of, tmp_path) -> None:
    """transformers itself only warns, and draws the missing tensors at random."""
    other = (folder_of("sam") / "model.safetensors").read_bytes()
    folder = spoiled(folder_of("sam2"), tmp_path, "model.safetensors", other)
    with pytest.raises(WeightsError, match=r"lack .* tensors of Sam2Model|holds no Sam2Model that can be loaded"):
        model_of(folder)


def test_a_processor_of_another_model_is_refused(folder_of, tmp_path) -> None:
    settings = json.loads((folder_of("sam2") / "preprocessor_config.json").read_text())
    settings["size"] = {"height": 256, "width": 256}
    folder = spoiled(folder_of("sam2"), tmp_path, "preprocessor_config.json", json.dumps(settings).encode())
    with pytest.raises(WeightsError, match="256 × 256 pixels, the model takes 128 × 128"):
        model_of(folder).encode([image_of(SIZES[0])])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ConfigError, "model_id is the folder"),
        ({"model_id": "/no/such/folder"}, WeightsNotFoundError, "nothing was downloaded"),
        ({"model_id": "facebook/sam2.1-hiera-tiny"}, WeightsNotFoundError, "`download: true`"),
        ({"model_id": "what is this"}, WeightsError, "neither a local folder nor an id"),
        ({"model_id": "x", "text": " "}, ConfigError, "noun phrase"),
        ({"model_id": "x", "exemplars": True}, ConfigError, "go with text"),
        ({"model_id": "x", "exemplars": 3, "text": "roof"}, ConfigError, "true or false"),
        ({"model_id": "x", "revision": 5}, ConfigError, "branch, tag or commit"),
        ({"model_id": "x", "least_score": 2}, ConfigError, "least_score is a number from 0 to 1"),
        ({"model_id": "x", "checkpoint": "y"}, UnknownNameError, "known: .*model_id"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_any_network(options, error, words, hub, no_network) -> None:
    with pytest.raises(error, match=words.replace("`", ".")):
        mask_backends.get("sam_hf", **options)


@pytest.mark.parametrize("variable", ["AEGIR_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_forbids_the_download(variable, hub, no_network, monkeypatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadForbiddenError, match=variable):
        mask_backends.get("sam_hf", model_id="facebook/sam2.1-hiera-tiny", download=True)


def test_an_id_is_found_in_the_local_cache(folder_of, hub, no_network, monkeypatch) -> None:
    monkeypatch.setenv("AEGIR_OFFLINE", "1")
    source = folder_of("sam2_video")
    kept = put(hub, "facebook/sam2.1-hiera-tiny", {path.name: path for path in source.iterdir()})
    options = {"model_id": "facebook/sam2.1-hiera-tiny", "download": True}
    assert SamHfBackend.weights_files(**options)["config.json"] == str(kept / "config.json")
    assert mask_backends.weights("sam_hf", **options) == mask_backends.weights("sam_hf", model_id=str(source))
    assert mask_backends.get("sam_hf", **options).load().encode([image_of(SIZES[0])])


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("sam2", "solar panel", "type 'sam2'; only sam3, sam3_video answer"),
        ("sam3", None, "detector of SAM 3 alone.*`text`"),
    ],
)
def test_words_go_with_sam3_alone(folder_of, kind, text, words) -> None:
    with pytest.raises(WeightsError, match=words.replace("`", ".")):
        mask_backends.get("sam_hf", model_id=str(folder_of(kind)), text=text)


def test_an_old_transformers_is_named(folder_of, monkeypatch) -> None:
    old = SimpleNamespace(__version__="4.40.0", logging=None)
    monkeypatch.setattr(_hf_networks, "import_module", lambda name: old)
    backend = mask_backends.get("sam_hf", model_id=str(folder_of("sam3")), text="solar panel")
    with pytest.raises(ExtraMissingError, match=r"transformers 4.40.0 has no Sam3Model"):
        backend.load()


def test_words_need_a_tokenizer(folder_of, tmp_path) -> None:
    folder = spoiled(folder_of("sam3"), tmp_path, "tokenizer.json", None)
    with pytest.raises(WeightsNotFoundError, match=r"no tokenizer\.json"):
        mask_backends.get("sam_hf", model_id=str(folder), text="solar panel")


@pytest.mark.parametrize("kind", ["sam3", "sam3_video"])
@pytest.mark.parametrize("size", SIZES[:3])
def test_finds_are_those_of_network_and_processor(folder_of, no_network, kind, size) -> None:
    import transformers

    folder, image = folder_of(kind), image_of(size)
    model = model_of(folder, text="solar panel", least_score=0.0)
    assert isinstance(model, TextModel)
    ((_, answer),) = model.encode([image])
    ours, order = instances(answer, 0, 0.0)
    processor = transformers.Sam3Processor.from_pretrained(folder)
    network = transformers.Sam3Model.from_pretrained(folder).eval()
    told = processor(images=[image], text="solar panel", return_tensors="pt")
    sizes = told.pop("original_sizes")
    with torch.no_grad():
        theirs = network(**told)
    (found,) = processor.post_process_instance_segmentation(theirs, threshold=0.0, target_sizes=sizes.tolist())
    np.testing.assert_allclose(ours.scores, found["scores"][order], rtol=1e-4)
    np.testing.assert_allclose(
        ours.boxes * np.array([size[1], size[0]] * 2), found["boxes"][order], rtol=1e-3, atol=1e-2
    )
    # the box of each find means that find, and its mask is the processor's
    for number in range(len(order)):
        box = np.clip(ours.boxes[number], 0, 1) * np.array([size[1], size[0]] * 2)
        prompt = PixelPrompt(
            state="inside",
            box=tuple(box.tolist()),
            points=np.zeros((0, 2), np.float32),
            point_labels=np.zeros(0, np.int32),
            previous=None,
        )
        chosen = meant(prompt, size, ours, 0.1)
        decoded = model.decode((None, answer), size, [prompt])
        mask = decoded.logits[0, 0] > 0
        assert (mask != found["masks"][order[chosen]].bool()).float().mean() < 1e-3
        assert decoded.predicted_iou[0, 0].item() == pytest.approx(ours.scores[chosen], rel=1e-5)


def test_exemplars_go_with_the_words(folder_of) -> None:
    import transformers

    folder, size = folder_of("sam3"), SIZES[1]
    model = model_of(folder, text="solar panel", exemplars=True, least_score=0.0, least_box_iou=0.0)
    image, prompts = image_of(size), [prompt_of(size, seed=seed) for seed in range(3)]
    (embedding,) = model.encode([image])
    together = model.decode(embedding, size, prompts)
    processor = transformers.Sam3Processor.from_pretrained(folder)
    network = transformers.Sam3Model.from_pretrained(folder).eval()
    for number, prompt in enumerate(prompts):
        told = processor(images=[image], text="solar panel", input_boxes=[[list(prompt.box)]], return_tensors="pt")
        told.pop("original_sizes")
        with torch.no_grad():
            theirs = network(**told)
        found, _ = instances(theirs, 0, 0.0)
        chosen = meant(prompt, size, found, 0.0)
        assert together.predicted_iou[number, 0].item() == pytest.approx(found.scores[chosen], rel=1e-3)
    plain = model_of(folder, text="solar panel", least_score=0.0)
    assert not np.allclose(
        together.predicted_iou, plain.decode(plain.encode([image])[0], size, prompts).predicted_iou, rtol=1e-4
    )


def found_of(*boxes: tuple[float, ...], scores: tuple[float, ...]) -> Instances:
    inside = np.zeros((len(boxes), 20, 20), np.bool_)
    for number, (left, top, right, bottom) in enumerate(boxes):
        inside[number, int(top * 20) : int(bottom * 20), int(left * 20) : int(right * 20)] = True
    return Instances(scores=np.array(scores), boxes=np.array(boxes).reshape(-1, 4), inside=inside)


def asking(box: tuple[float, ...] | None, *points: tuple[float, float, int]) -> PixelPrompt:
    return PixelPrompt(
        state="inside",
        box=box,
        points=np.array([point[:2] for point in points], np.float32).reshape(-1, 2),
        point_labels=np.array([point[2] for point in points], np.int32),
        previous=None,
    )


def test_which_find_a_prompt_means() -> None:
    size = (100, 200)
    found = found_of((0, 0, 0.5, 0.5), (0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 1, 1), scores=(0.9, 0.8, 0.4))
    # columns are twice the rows: a share of .5 is column 100 and row 50
    assert meant(asking((0, 0, 100, 50)), size, found, 0.1) == 0
    assert meant(asking((20, 10, 80, 40)), size, found, 0.1) == 1
    assert meant(asking((110, 60, 190, 90)), size, found, 0.1) == 2
    assert meant(asking((110, 0, 190, 40)), size, found, 0.1) is None
    assert meant(asking((95, 45, 105, 55)), size, found, 0.1) is None
    assert meant(asking((0, 0, 100, 50), (60.0, 25.0, 0)), size, found, 0.1) is None
    assert meant(asking((0, 0, 100, 50), (90.0, 48.0, 0)), size, found, 0.1) == 1
    assert meant(asking(None, (60.0, 25.0, 1)), size, found, 0.1) == 0
    assert meant(asking(None, (60.0, 25.0, 1), (2.0, 2.0, 0)), size, found, 0.1) == 1
    assert meant(asking(None, (60.0, 25.0, 1), (150.0, 75.0, 1)), size, found, 0.1) is None
    assert meant(asking((0, 0, 100, 50)), size, found_of(scores=()), 0.1) is None


def test_words_refuse_earlier_masks(folder_of) -> None:
    model = model_of(folder_of("sam3"), text="solar panel")
    with pytest.raises(MaskError, match="takes no earlier masks"):
        model.decode(model.encode([image_of(SIZES[0])])[0], SIZES[0], [prompt_of(SIZES[0], previous=True)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_a_compiled_encoder_answers_alike(folder_of, kind) -> None:
    plain, compiled = (model_of(folder_of(kind), compile=on) for on in (False, True))
    for image in (image_of(SIZES[0]), image_of(SIZES[1], 1)):
        ((a, _),), ((b, _),) = plain.encode([image]), compiled.encode([image])
        for ours, theirs in zip(a, b, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
