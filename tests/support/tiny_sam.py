"""Checkpoints of the real SAM and HQ-SAM classes, small and random: they answer in milliseconds and mean nothing.

:func:`register` makes the model type ``tiny_test`` known to ``segment_anything`` and to ``segment_anything_hq``, whose
registries are where both libraries (and segment-geospatial) look model types up.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

MODEL_TYPE = "tiny_test"
SIDE = 256
_DIM, _PATCH, _OUT = 32, 16, 32


def register() -> None:
    """Add ``tiny_test`` to both registries; again is harmless."""
    for registry, build in ((_registry("segment_anything"), build_sam), (_registry("segment_anything_hq"), build_hq)):
        registry[MODEL_TYPE] = build


def checkpoint(folder: Path, backend: str = "sam", *, seed: int = 0) -> Path:
    """The file of random weights of ``backend`` (``sam`` or ``sam_hq``) under ``folder``, written when missing."""
    register()
    path = folder / f"tiny_{backend}_{seed}.pth"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_sam() if backend == "sam" else build_hq()
        torch.save(network.state_dict(), path)
    return path


def options(folder: Path, backend: str = "sam", *, seed: int = 0) -> dict[str, Any]:
    """Options of the mask backend with that checkpoint."""
    path = str(checkpoint(folder, backend, seed=seed))
    return {"model_type": MODEL_TYPE, "checkpoint": path, "device": "cpu", "threads": 1}


def outline_of(path: Path, backend: str, model_type: str) -> Path:
    """A checkpoint of a few kilobytes that is recognised as a published model: names and shapes, no numbers."""
    widths = {"vit_b": (768, 12), "vit_l": (1024, 24), "vit_h": (1280, 32), "vit_tiny": (0, 0)}
    width, depth = widths[model_type]
    held = {f"image_encoder.blocks.{number}.norm1.weight": torch.zeros(1) for number in range(depth)}
    patch = "image_encoder.patch_embed.proj.weight" if width else "image_encoder.patch_embed.seq.0.c.weight"
    held[patch] = torch.zeros(width or 32, 3, 1, 1)
    if backend == "sam_hq":
        held["mask_decoder.hf_token.weight"] = torch.zeros(1, 256)
    torch.save(held, path)
    return path


def build_sam(checkpoint: str | None = None) -> Any:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    return _network(
        Sam,
        ImageEncoderViT,
        PromptEncoder,
        partial(MaskDecoder, transformer=_transformer(TwoWayTransformer)),
        checkpoint,
    )


def build_hq(checkpoint: str | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from segment_anything_hq.modeling import ImageEncoderViT, MaskDecoderHQ, PromptEncoder, Sam, TwoWayTransformer

    decoder = partial(MaskDecoderHQ, transformer=_transformer(TwoWayTransformer), vit_dim=_DIM)
    return _network(Sam, ImageEncoderViT, PromptEncoder, decoder, checkpoint)


def _transformer(kind: Any) -> Any:
    return kind(depth=1, embedding_dim=_OUT, mlp_dim=64, num_heads=2)


def _network(kind: Any, encoder: Any, prompts: Any, decoder: Any, checkpoint: str | None) -> Any:
    cells = SIDE // _PATCH
    network = kind(
        image_encoder=encoder(
            depth=2,
            embed_dim=_DIM,
            img_size=SIDE,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=_PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[1],
            window_size=7,
            out_chans=_OUT,
        ),
        prompt_encoder=prompts(
            embed_dim=_OUT, image_embedding_size=(cells, cells), input_image_size=(SIDE, SIDE), mask_in_chans=4
        ),
        mask_decoder=decoder(num_multimask_outputs=3, transformer_dim=_OUT, iou_head_depth=2, iou_head_hidden_dim=32),
    )
    network.eval()
    if checkpoint is not None:
        network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return network


def _registry(package: str) -> dict[str, Any]:
    from importlib import import_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(package).sam_model_registry
