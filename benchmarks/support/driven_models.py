"""Promptable models of the real size with random weights: our backend, and the same network driven by hand."""

import contextlib
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataflows import mask_backends

Image = NDArray[np.uint8]
Boxes = NDArray[np.float64]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries that print and warn while they are imported or built."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Driven(ABC):
    """One model: our backend, and the same network in its library's predictor."""

    backend: str

    def __init__(self, name: str, folder: Path, device: str) -> None:
        """Draw weights, write them under ``folder`` and load them."""
        with quiet():
            options = self.options(name, folder)
            self.settings = options | {"device": device}
            self.ours = self._made()
            self.model = self.ours.load()
            self.network = self.find_network()
        self.device = self.model.device

    def _made(self, **more: Any) -> Any:
        plain = {"prompt_stability": False, "cached_embeddings": 0, "encode_batch": 8}
        return mask_backends.get(self.backend, **{**self.settings, **plain, **more})

    def variant(self, **more: Any) -> Any:
        """Our backend with other options over the same loaded network."""
        other = self._made(**more)
        other._model = self.model  # noqa: SLF001 - loading the weights again would take memory and minutes
        return other

    @abstractmethod
    def options(self, name: str, folder: Path) -> dict[str, Any]:
        """Write random weights of the real size; returns options of the backend."""

    @abstractmethod
    def find_network(self) -> Any:
        """The loaded network."""

    @abstractmethod
    def by_hand(self) -> Callable[[Image, Boxes], Any]:
        """(b) for one image and its boxes."""

    @abstractmethod
    def samgeo(self) -> Callable[[Image, list[float]], Any]:
        """(c) for one image and one box."""

    @abstractmethod
    def bare(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> Callable[[], Any]:
        """(d), with everything prepared that is no part of the network."""


class Sam2(Driven):
    """SAM 2 and 2.1."""

    backend = "sam2"

    def options(self, name: str, folder: Path) -> dict[str, Any]:
        """As in :class:`Driven`."""
        from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, build_sam2  # noqa: PLC0415 - it sets Hydra up

        version = name.split("_", maxsplit=1)[0]
        config = f"configs/{version}/{name}.yaml"
        model_id = {config: model_id for model_id, (config, _) in HF_MODEL_ID_TO_FILENAMES.items()}[config]
        path = folder / f"{name}.pt"
        torch.save({"model": build_sam2(config, None, device="cpu").state_dict()}, path)
        return {"checkpoint": str(path), "model_id": model_id}

    def find_network(self) -> Any:
        """As in :class:`Driven`."""
        return self.model.network

    def _predictor(self) -> Any:
        from sam2.sam2_image_predictor import SAM2ImagePredictor  # noqa: PLC0415

        return SAM2ImagePredictor(self.network)

    def by_hand(self) -> Callable[[Image, Boxes], Any]:
        """As in :class:`Driven`."""
        predictor = self._predictor()

        def answer(image: Image, boxes: Boxes) -> Any:
            predictor.set_image(image)
            masks, rated, _ = predictor.predict(box=boxes, multimask_output=True)
            return masks[np.arange(len(masks)), rated.argmax(axis=1)]

        return answer

    def samgeo(self) -> Callable[[Image, list[float]], Any]:
        """As in :class:`Driven`."""
        found = import_module("samgeo.samgeo2").SamGeo2
        made = found.__new__(found)
        made.predictor, made.device = self._predictor(), self.device

        def answer(image: Image, box: list[float]) -> Any:
            made.set_image(image)
            return made.predict(boxes=[box], multimask_output=True, return_results=True)

        return answer

    def bare(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> Callable[[], Any]:
        """As in :class:`Driven`."""
        net = self.network
        batch = torch.stack([self.model._frame(image) for image in images])  # noqa: SLF001 - ready beforehand
        corners = [self._corners(image, of, net.image_size) for image, of in zip(images, boxes, strict=True)]

        def run() -> None:
            features = net.forward_image(batch)["backbone_fpn"]
            for number, points in enumerate(corners):
                marks = torch.tensor([[2, 3]], device=batch.device).expand(len(points), 2)
                sparse, dense = net.sam_prompt_encoder(points=(points, marks), boxes=None, masks=None)
                net.sam_mask_decoder(
                    image_embeddings=features[-1][number : number + 1] + net.no_mem_embed.reshape(1, -1, 1, 1),
                    image_pe=net.sam_prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                    repeat_image=True,
                    high_res_features=[level[number : number + 1] for level in features[:-1]],
                )

        return run

    def _corners(self, image: Image, boxes: Boxes, side: int) -> Any:
        scale = np.array([side / image.shape[1], side / image.shape[0]])
        return torch.as_tensor(boxes.reshape(-1, 2, 2) * scale, dtype=torch.float32, device=self.device)


class Sam(Driven):
    """SAM and, from a subclass, HQ-SAM."""

    backend, library, wrapper = "sam", "segment_anything", "samgeo.samgeo"

    def options(self, name: str, folder: Path) -> dict[str, Any]:
        """As in :class:`Driven`."""
        path = folder / f"{self.backend}_{name}.pth"
        torch.save(import_module(self.library).sam_model_registry[name]().state_dict(), path)
        return {"checkpoint": str(path), "model_type": name}

    def find_network(self) -> Any:
        """As in :class:`Driven`."""
        return self.model._network  # noqa: SLF001 - the same weights for all

    def _predictor(self) -> Any:
        return import_module(self.library).SamPredictor(self.network)

    def by_hand(self) -> Callable[[Image, Boxes], Any]:
        """As in :class:`Driven`."""
        predictor = self._predictor()

        def answer(image: Image, boxes: Boxes) -> Any:
            predictor.set_image(image)
            told = torch.as_tensor(boxes, dtype=torch.float32, device=self.device)
            told = predictor.transform.apply_boxes_torch(told, image.shape[:2])
            masks, rated, _ = predictor.predict_torch(None, None, boxes=told, multimask_output=True)
            return masks[torch.arange(len(masks)), rated.argmax(dim=1)].cpu().numpy()

        return answer

    def samgeo(self) -> Callable[[Image, list[float]], Any]:
        """As in :class:`Driven`."""
        found = import_module(self.wrapper).SamGeo
        made = found.__new__(found)
        made.predictor, made.device = self._predictor(), self.device

        def answer(image: Image, box: list[float]) -> Any:
            made.set_image(image)
            return made.predict(boxes=[box], return_results=True)

        return answer

    def bare(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> Callable[[], Any]:
        """As in :class:`Driven`."""
        net, transform = self.network, self._predictor().transform
        batch = torch.stack([self.model._input(image) for image in images])  # noqa: SLF001 - ready beforehand
        told = [
            transform.apply_boxes_torch(torch.as_tensor(of, dtype=torch.float32, device=self.device), image.shape[:2])
            for image, of in zip(images, boxes, strict=True)
        ]

        def run() -> None:
            encoded = self._encoded(net.image_encoder(batch))
            for number, corners in enumerate(told):
                sparse, dense = net.prompt_encoder(points=None, boxes=corners, masks=None)
                self._decode(
                    encoded,
                    number,
                    image_pe=net.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                )

        return run

    def _encoded(self, found: Any) -> Any:
        return found

    def _decode(self, encoded: Any, number: int, **told: Any) -> None:
        self.network.mask_decoder(image_embeddings=encoded[number : number + 1], **told)


class Hq(Sam):
    """HQ-SAM."""

    backend, library, wrapper = "sam_hq", "segment_anything_hq", "samgeo.hq_sam"

    def _decode(self, encoded: Any, number: int, **told: Any) -> None:
        embeddings, inner = encoded
        self.network.mask_decoder(
            image_embeddings=embeddings[number : number + 1],
            hq_token_only=False,
            interm_embeddings=[level[number : number + 1] for level in inner],
            **told,
        )


KINDS: dict[str, type[Driven]] = {
    **{f"{version}_hiera_{size}": Sam2 for version in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")},
    **dict.fromkeys(("vit_b", "vit_l", "vit_h"), Sam),
    "vit_tiny": Hq,
}
"""Name of a model → how it is driven; vit_tiny is HQ-SAM's."""
