"""Models of a search: checkpoints of ours and torch modules by class path, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer

from support.search_scenes import TinyNet
from training.inputs import InputSpec, input_spec
from training.litmodule import SegmentationModule
from training.normalisation import ChannelStats
from training.scene_models import SceneModel, checked_probabilities, pixels_of_model, scene_model
from utils.errors import ConfigError, ModelError, WeightsError, WeightsNotFoundError
from utils.indices import spectral_index
from utils.types import ChipProfile

NET = "support.search_scenes:TinyNet"
RGB_IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 48, 48)).astype(np.uint8)


def checkpoint(folder: Path, spec: InputSpec | None, *, seed: int = 0) -> Path:
    """A checkpoint as a fit writes it, of random weights."""
    torch.manual_seed(seed)
    channels = 3 if spec is None else len(spec.channels)
    module = SegmentationModule(in_channels=channels)
    if spec is not None:
        module.use_inputs(spec, ChannelStats(mean=(0.2,) * channels, std=(0.5,) * channels, n_chips=1))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    path = folder / f"{seed}.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_a_checkpoint_knows_its_pixels(tmp_path):
    path = checkpoint(tmp_path, input_spec(ChipProfile(gsd_m=0.25), "vhr"))
    model = scene_model(str(path), device="cpu")
    assert isinstance(model, SceneModel)
    assert (model.bands, model.kind, model.gsd_m, model.window_px) == (("red", "green", "blue"), "vhr", 0.25, 256)
    module = SegmentationModule.load_from_checkpoint(path, weights_only=True).eval()
    with torch.inference_mode():
        wanted = torch.sigmoid(module(torch.from_numpy(RGB_IMAGES))).numpy()
    found = model.probabilities(RGB_IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


PIXELS = {
    "vhr checkpoint": input_spec(ChipProfile(gsd_m=0.25), "vhr"),
    "msi checkpoint": input_spec(ChipProfile(), "msi", bands=["B04"], indices=["ndvi", "ndbi"], msi_window_px=16),
    "class path": {"gsd_m": 0.5, "window_px": 64, "bands": ["blue", "red", "nir"], "arguments": {"channels": 3}},
}


@pytest.mark.parametrize("case", PIXELS)
def test_pixels_are_known_before_the_model_is_loaded(case, tmp_path):
    told = PIXELS[case]
    given = (NET, told) if isinstance(told, dict) else (str(checkpoint(tmp_path, told)), None)
    pixels, model = pixels_of_model(*given), scene_model(*given, device="cpu")
    assert vars(pixels) == {name: getattr(model, name) for name in ("bands", "kind", "gsd_m", "window_px")}


def test_a_multispectral_checkpoint_reads_the_bands_its_indices_need(tmp_path):
    spec = input_spec(ChipProfile(), "msi", bands=["B04", "B11"], indices=["ndvi", "ndbi"], msi_window_px=16)
    model = scene_model(str(checkpoint(tmp_path, spec)), device="cpu")
    assert model.bands == ("B04", "B11", "B08")
    assert (model.kind, model.gsd_m, model.window_px) == ("msi", 10.0, 16)
    digital = np.random.default_rng(1).integers(1, 5000, (2, 3, 16, 16)).astype(np.uint16)
    digital[0, :, :4] = 0
    red, swir, near = np.where(digital == 0, np.nan, digital.astype(np.float32) / np.float32(1e4)).transpose(1, 0, 2, 3)
    named = {"B04": red, "B11": swir, "B08": near}
    channels = np.stack([red, swir, *(spectral_index(name, named) for name in spec.indices)], axis=1)
    module = SegmentationModule.load_from_checkpoint(tmp_path / "0.ckpt", weights_only=True).eval()
    with torch.inference_mode():
        wanted = torch.sigmoid(module(torch.from_numpy(channels))).numpy()
    np.testing.assert_allclose(model.probabilities(digital), wanted, atol=1e-6)


def test_an_identity_follows_weights_class_and_options(tmp_path):
    spec = input_spec(ChipProfile(), "vhr")
    first, second = (scene_model(str(checkpoint(tmp_path, spec, seed=seed)), device="cpu").model_id for seed in (0, 1))
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes((tmp_path / "0.ckpt").read_bytes())
    assert first == scene_model(str(moved), device="cpu").model_id != second
    assert len(first) == 64
    torch.save(TinyNet(5).state_dict(), tmp_path / "net.pt")
    told = [
        {},
        {"arguments": {"seed": 1}},
        {"scale": 0.5},
        {"activation": "none"},
        {"window_px": 128},
        {"weights": str(tmp_path / "net.pt")},
    ]
    ids = [scene_model(NET, options, device="cpu").model_id for options in told]
    assert len(set(ids)) == len(ids)
    assert ids == [scene_model(NET, options, device="cpu").model_id for options in told]


class Returning(torch.nn.Module):
    """Gives what it is told, whatever it sees."""

    def __init__(self, what: str = "classes") -> None:
        super().__init__()
        self.what = what

    def forward(self, images):
        n, _, height, width = images.shape
        classes = torch.stack([images[:, 0], images[:, 1] - images[:, 2]], dim=1)
        return {
            "classes": classes,
            "mapping": {"out": classes},
            "plane": images[:, 0],
            "nan": images[:, 0] * torch.nan,
            "small": images[:, :1, ::2, ::2],
            "list": [classes],
            "vector": images.mean(dim=(1, 2, 3)),
            "shape": torch.zeros(n, 1, height, width + 1),
        }[self.what]


RETURNING = f"{__name__}:Returning"


@pytest.mark.parametrize("what", ["classes", "mapping"])
def test_activation_and_channel_of_a_module(what):
    scale, mean, std = 1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    pixels = {"scale": scale, "mean": list(mean), "std": list(std), "arguments": {"what": what}}
    given = (RGB_IMAGES * np.float32(scale) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    logits = np.stack([given[:, 0], given[:, 1] - given[:, 2]], axis=1)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = {"softmax": softmax[:, 1], "sigmoid": 1 / (1 + np.exp(-logits[:, 1]))}
    for activation, probabilities in wanted.items():
        model = scene_model(RETURNING, pixels | {"activation": activation, "channel": 1}, device="cpu")
        np.testing.assert_allclose(model.probabilities(RGB_IMAGES), probabilities, atol=1e-5)
    plain = scene_model(
        RETURNING, {"arguments": {"what": "plane"}, "scale": 1 / 255, "activation": "none"}, device="cpu"
    )
    np.testing.assert_allclose(plain.probabilities(RGB_IMAGES), RGB_IMAGES[:, 0] / 255, atol=1e-6)


def test_weights_come_from_a_file(tmp_path):
    torch.save(TinyNet(7).state_dict(), tmp_path / "net.pt")
    loaded = scene_model(NET, {"weights": str(tmp_path / "net.pt")}, device="cpu")
    made = scene_model(NET, {"arguments": {"seed": 7}}, device="cpu")
    np.testing.assert_array_equal(loaded.probabilities(RGB_IMAGES), made.probabilities(RGB_IMAGES))


def test_turns_and_mirror_images_are_averaged():
    plain, turned = (scene_model(NET, device="cpu", tta=tta) for tta in (False, True))
    images = RGB_IMAGES[:, :, :40]  # not square
    answers = []
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(images, turns, (2, 3))
            view = view[..., ::-1] if mirrored else view
            answer = plain.probabilities(np.ascontiguousarray(view))
            answers.append(np.rot90(answer[..., ::-1] if mirrored else answer, -turns, (1, 2)))
    found = turned.probabilities(images)
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-5)
    # the mean does not change when the image is turned
    again = turned.probabilities(np.ascontiguousarray(np.rot90(images, 1, (2, 3))))
    np.testing.assert_allclose(np.rot90(again, -1, (1, 2)), found, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arguments": {"what": "nan"}}, "not finite"),
        ({"activation": "none"}, "activation"),
        ({"arguments": {"what": "small"}}, "shape"),
        ({"arguments": {"what": "shape"}}, "shape"),
        ({"arguments": {"what": "list"}}, "list"),
        ({"arguments": {"what": "vector"}}, "expected a tensor"),
        ({"channel": 2}, "channel is 2"),
        ({"bands": ["red", "green"]}, "2 bands"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(options, message):
    model = scene_model(RETURNING, options, device="cpu")
    with pytest.raises(ModelError, match=message):
        model.probabilities(RGB_IMAGES)


def test_images_a_module_cannot_take_are_refused():
    model = scene_model(NET, {"bands": ["red", "green", "blue", "nir"]}, device="cpu")
    with pytest.raises(ModelError, match="cannot take"):
        model.probabilities(np.zeros((1, 4, 16, 16), np.uint8))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("no_such_module:Net", {}, "PYTHONPATH"),
        ("support.search_scenes:Nothing", {}, "has no 'Nothing'"),
        ("support.search_scenes:EPSG", {}, "no class"),
        ("support.search_scenes:PlainModel", {"arguments": {"function": None}}, r"torch\.nn\.Module"),
        (NET, {"arguments": {"depth": 3}}, "depth"),
        (NET, {"colour": 1}, "unknown colour"),
        (NET, {"gsd_m": "fine"}, "gsd_m"),
        (NET, {"bands": "red"}, "bands"),
        (NET, {"mean": [1.0]}, "mean holds 1"),
        (NET, {"activation": "relu"}, "relu"),
        (NET, {"kind": "sar"}, "sar"),
        (NET, {"scale": 0}, "above 0"),
        (NET, {"bands": ["red", "red"]}, "once"),
    ],
)
def test_models_and_options_that_cannot_be_used_are_refused(model, options, message):
    with pytest.raises(ConfigError, match=message):
        scene_model(model, options, device="cpu")


def test_files_that_are_no_models_are_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ConfigError, match=r"text\.ckpt is no checkpoint"):
        scene_model(str(tmp_path / "text.ckpt"))
    with pytest.raises(WeightsNotFoundError, match=r"none\.ckpt"):
        scene_model(str(tmp_path / "none.ckpt"))
    with pytest.raises(ConfigError, match="which pixels"):
        scene_model(str(checkpoint(tmp_path, None)))
    with pytest.raises(ConfigError, match="class path"):
        scene_model(str(tmp_path / "0.ckpt"), {"bands": ["red"]})
    for content in (b"no state dict", b""):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(WeightsError, match=r"a\.pt holds no state dict"):
            scene_model(NET, {"weights": str(tmp_path / "a.pt")})
    torch.save({"other": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match=r"b\.pt"):
        scene_model(NET, {"weights": str(tmp_path / "b.pt")})
    with pytest.raises(WeightsNotFoundError, match=r"c\.pt"):
        scene_model(NET, {"weights": str(tmp_path / "c.pt")})


@pytest.mark.parametrize("device", ["warp drive", "cuda:99"])
def test_devices_that_are_not_there_are_refused(device):
    with pytest.raises(ConfigError, match=device):
        scene_model(NET, device=device)


def test_mixed_precision_leaves_a_cpu_alone():
    plain, mixed = (scene_model(NET, device="cpu", amp=amp).probabilities(RGB_IMAGES) for amp in (False, True))
    np.testing.assert_array_equal(plain, mixed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_mixed_precision_on_a_gpu_is_close():
    plain, mixed = (scene_model(NET, device="cuda", amp=amp).probabilities(RGB_IMAGES) for amp in (False, True))
    assert 0 < np.abs(plain - mixed).max() < 0.05


def test_float64_is_taken_as_probabilities():
    images = np.zeros((1, 3, 4, 4), np.uint8)
    assert checked_probabilities(np.ones((1, 4, 4)), images, "it").dtype == np.float32
    with pytest.raises(ModelError, match="it returns values"):
        checked_probabilities(np.full((1, 4, 4), 1.5), images, "it")
