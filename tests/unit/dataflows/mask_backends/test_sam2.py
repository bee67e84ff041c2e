"""The backend ``sam2`` over a tiny SAM 2 of the real classes, against ``SAM2ImagePredictor``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dataflows import mask_backends
from dataflows.mask_backends import sam2 as backend_module
from dataflows.mask_backends._sam2_network import Sam2Model, load_network
from dataflows.mask_backends.sam2 import MODELS, Sam2Backend, Sam2Options
from support import tiny_sam2
from support.hub_cache import put
from utils.errors import (
    ConfigError,
    DownloadForbiddenError,
    ExtraMissingError,
    UnknownNameError,
    WeightsError,
    WeightsNotFoundError,
)
from utils.pixel_prompts import PixelPrompt

SIZES = [(96, 96), (100, 130), (257, 60)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_sam2.write(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def network(files) -> Any:
    return load_network(Path(files["config"]), Path(files["checkpoint"]))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(network: Any, **options: Any) -> Sam2Model:
    return Sam2Model(network, Sam2Options(device="cpu", **options))


def predictor_of(network: Any) -> Any:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(network)
    # written for images of 1024 pixels
    predictor._bb_feat_sizes = [(network.image_size // step,) * 2 for step in (4, 8, 16)]
    return predictor


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


def asked(predictor: Any, prompt: PixelPrompt, size: tuple[int, int], *, multimask: bool = True) -> tuple[Any, Any]:
    """The predictor's best answer to ``prompt``, told in its own coordinates: whole numbers are pixel centres."""
    half = np.array([size[1], size[0]]) / predictor.model.image_size / 2
    low = predictor.model.sam_prompt_encoder.mask_input_size
    previous = None
    if prompt.previous is not None:
        mask = torch.tensor(prompt.previous, dtype=torch.float32)[None, None]
        previous = torch.nn.functional.interpolate(mask, low, mode="bilinear", antialias=True)[0].numpy() * 20 - 10
    logits, rated, _ = predictor.predict(
        box=None if prompt.box is None else (np.array(prompt.box).reshape(2, 2) - half).ravel(),
        point_coords=prompt.points - half if len(prompt.points) else None,
        point_labels=prompt.point_labels if len(prompt.points) else None,
        mask_input=previous,
        multimask_output=multimask,
        return_logits=True,
    )
    best = int(np.argmax(rated))
    return logits[best], rated[best]


@pytest.mark.parametrize("size", SIZES)
def test_embeddings_are_the_predictors(network, size) -> None:
    predictor, image = predictor_of(network), image_of(size)
    (embedding,) = model_of(network).encode([image])
    predictor.set_image(image)
    assert torch.equal(embedding[0], predictor._features["image_embed"])
    for ours, theirs in zip(embedding[1], predictor._features["high_res_feats"], strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_of_sizes_is_what_each_is_alone(network) -> None:
    predictor = predictor_of(network)
    images = [image_of(size, seed) for seed, size in enumerate(SIZES)]
    for image, (coarse, fine) in zip(images, model_of(network).encode(images), strict=True):
        predictor.set_image(image)
        torch.testing.assert_close(coarse, predictor._features["image_embed"], rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(fine, predictor._features["high_res_feats"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        # and holds no memory of the others
        assert coarse.untyped_storage().nbytes() == coarse.nbytes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"box": False, "points": 1},
        {"box": False, "points": 4},
        {"points": 2},
        {"previous": True},
        {"points": 3, "previous": True},
    ],
    ids=str,
)
def test_answers_are_the_predictors(network, size, multimask, told) -> None:
    predictor, model, image = predictor_of(network), model_of(network, multimask=multimask), image_of(size)
    prompts = [prompt_of(size, seed=seed, **told) for seed in range(3)]
    (embedding,) = model.encode([image])
    decoded = model.decode(embedding, size, prompts)
    assert decoded.logits.shape == (3, 1, *size)
    assert decoded.logits.dtype == decoded.predicted_iou.dtype == torch.float32
    predictor.set_image(image)
    for number, prompt in enumerate(prompts):
        logits, rated = asked(predictor, prompt, size, multimask=multimask)
        np.testing.assert_allclose(decoded.logits[number, 0], logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(decoded.predicted_iou[number, 0], rated, rtol=1e-4, atol=1e-5)


def test_what_is_told_changes_the_answer(network) -> None:
    size, model = SIZES[0], model_of(network)
    (embedding,) = model.encode([image_of(size)])
    kinds = [{}, {"points": 2}, {"previous": True}, {"box": False, "points": 2}]
    answers = [model.decode(embedding, size, [prompt_of(size, **kind)]).logits for kind in kinds]
    pairs = [(a, b) for n, a in enumerate(answers) for b in answers[:n]]
    assert all((a - b).abs().max() > 1e-3 for a, b in pairs)


def test_bfloat16_stays_close_and_answers_in_float32(network) -> None:
    size = SIZES[0]
    exact, rough = (model_of(network, precision=precision) for precision in ("float32", "bfloat16"))
    prompts = [prompt_of(size, seed=seed) for seed in range(4)]
    (a, b) = (model.decode(model.encode([image_of(size)])[0], size, prompts) for model in (exact, rough))
    assert b.logits.dtype == torch.float32
    assert 0 < (a.logits - b.logits).abs().max() < 0.1 * a.logits.abs().max()


def test_prompts_are_placed_exactly_in_bfloat16(network) -> None:
    size = (1000, 1000)
    one, other = (replace(prompt_of(size), box=(x, 100.0, 800.0, 900.0)) for x in (500.0, 501.0))
    model = model_of(network, precision="bfloat16")
    (embedding,) = model.encode([image_of(SIZES[0])])
    a, b = (model.decode(embedding, size, [prompt]).logits for prompt in (one, other))
    assert (a - b).abs().max() > 0


def test_published_names_are_those_of_sam2() -> None:
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    assert MODELS == HF_MODEL_ID_TO_FILENAMES


@pytest.mark.parametrize("model_id", MODELS)
def test_published_configurations_are_accepted(model_id, files) -> None:
    found = Sam2Backend.weights_files(model_id=model_id, checkpoint=files["checkpoint"])
    assert found["checkpoint"] == files["checkpoint"]
    assert found["config"].endswith(MODELS[model_id][0])


def test_the_network_is_that_of_build_sam2(tmp_path) -> None:
    from sam2.build_sam import build_sam2

    name = "configs/sam2.1/sam2.1_hiera_t.yaml"
    theirs = build_sam2(name, None, device="cpu")
    torch.save({"model": theirs.state_dict()}, tmp_path / "sam2.1_hiera_tiny.pt")
    # a checkpoint of a published name needs no config
    found = Sam2Backend.weights_files(checkpoint=str(tmp_path / "sam2.1_hiera_tiny.pt"))
    ours = load_network(Path(found["config"]), Path(found["checkpoint"]))
    assert repr(ours) == repr(theirs)
    extra = (
        "dynamic_multimask_via_stability",
        "dynamic_multimask_stability_delta",
        "dynamic_multimask_stability_thresh",
    )
    assert [getattr(ours.sam_mask_decoder, name) for name in extra] == [
        getattr(theirs.sam_mask_decoder, name) for name in extra
    ]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"checkpoint": "/no/such/sam2.1_hiera_tiny.pt"}, WeightsNotFoundError, "nothing was downloaded"),
        ({"checkpoint": "/no/such/own.pt"}, ConfigError, "say which model it is"),
        ({"config": "configs/sam2.1/sam2.1_hiera_x.yaml"}, WeightsNotFoundError, "sam2.1_hiera_t.yaml"),
        ({"model_id": "sam2-hiera-huge"}, UnknownNameError, "facebook/sam2.1-hiera-tiny"),
        ({"model_id": "sam2.1-hiera-tiny"}, WeightsNotFoundError, "`download: true`"),
        ({}, WeightsNotFoundError, "sam2_hiera_large.pt of facebook/sam2-hiera-large"),
        ({"encode_batch": 0}, ConfigError, "encode_batch"),
        ({"checkpoint": 5}, ConfigError, "text or null"),
        ({"config": 5}, ConfigError, "text or null"),
        ({"model_id": 5}, ConfigError, "text or null"),
        ({"checkpoint": ""}, ConfigError, "text or null"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_before_any_network(options, error, words, hub, no_network) -> None:
    with pytest.raises(error, match=words.replace("`", ".")):
        mask_backends.get("sam2", **options)


@pytest.mark.parametrize("variable", ["AEGIR_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_forbids_the_download(variable, hub, no_network, monkeypatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadForbiddenError, match=variable):
        mask_backends.get("sam2", model_id="sam2.1-hiera-tiny", download=True)


def test_an_id_is_found_in_the_local_cache(files, hub, no_network, monkeypatch) -> None:
    monkeypatch.setenv("AEGIR_OFFLINE", "1")
    kept = put(hub, "facebook/sam2.1-hiera-tiny", {"sam2.1_hiera_tiny.pt": Path(files["checkpoint"])})
    options = {"model_id": "sam2.1-hiera-tiny", "config": files["config"], "download": True}
    assert Sam2Backend.weights_files(**options)["checkpoint"] == str(kept / "sam2.1_hiera_tiny.pt")
    hashes = mask_backends.weights("sam2", **options)
    assert hashes == mask_backends.weights("sam2", **files)
    assert mask_backends.get("sam2", **options).load().encode([image_of(SIZES[0])])
    with pytest.raises(WeightsNotFoundError, match="at v2"):
        Sam2Backend.weights_files(**options | {"revision": "v2", "download": False})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "no `model`"),
        ("model: {", "no configuration"),
        ("model: {image_size: 3}", "no `model` with a `_target_`"),
        ("model: {_target_: os.system, command: 'true'}", "would run os.system"),
        (
            "model: {_target_: sam2.modeling.sam2_base.SAM2Base, a: [{_target_: builtins.eval}]}",
            "would run builtins.eval",
        ),
    ],
)
def test_configurations_that_are_none(files, tmp_path, text, words) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(WeightsError, match=words.replace("`", ".")):
        Sam2Backend.weights_files(**files | {"config": str(path)})


def test_a_configuration_that_cannot_be_built(files, tmp_path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("model: {_target_: sam2.modeling.sam2_base.SAM2Base, image_size: 3}")
    with pytest.raises(WeightsError, match="no SAM 2 model that can be built"):
        mask_backends.get("sam2", **files | {"config": str(path)}).load()


def test_a_checkpoint_of_another_model_is_refused(files, tmp_path) -> None:
    wider = tiny_sam2.settings() | {"num_maskmem": 3}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump({"model": wider}))
    with pytest.raises(WeightsError, match=r"does not fit the model of .*wide\.yaml: size mismatch for maskmem"):
        mask_backends.get("sam2", checkpoint=files["checkpoint"], config=str(tmp_path / "wide.yaml")).load()
    with pytest.raises(WeightsError, match="does not fit the model"):
        mask_backends.get("sam2", checkpoint=files["checkpoint"], model_id="sam2-hiera-tiny").load()


def test_a_truncated_checkpoint_is_refused(files, tmp_path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(Path(files["checkpoint"]).read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="truncated"):
        mask_backends.get("sam2", checkpoint=str(cut), config=files["config"])


def test_an_unusable_device_is_refused(network) -> None:
    with pytest.raises(ConfigError, match="'cuda:7' is not on this machine"):
        Sam2Model(network, replace(Sam2Options(), device="cuda:7"))


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissingError, match=r"lance\[sam2\]"):
        mask_backends.get("sam2", model_id="sam2-hiera-tiny")


@pytest.mark.slow
def test_a_compiled_encoder_answers_alike(files) -> None:
    plain, compiled = (Sam2Backend(**files, device="cpu", compile=on).load() for on in (False, True))
    for image in (image_of(SIZES[0]), image_of(SIZES[1], 1)):
        (a,), (b,) = plain.encode([image]), compiled.encode([image])
        torch.testing.assert_close(a[0], b[0], rtol=1e-3, atol=1e-4)
