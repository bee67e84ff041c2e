"""SAM, SAM 2 and SAM 3 of transformers' own classes with random weights, in folders laid out as on the hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIDE = 112
_HEADS = {"hidden_size": 32, "num_attention_heads": 2}
_DECODER = _HEADS | {"mlp_dim": 64, "num_hidden_layers": 1, "iou_head_depth": 2, "iou_head_hidden_dim": 32}

_MEMORY = {
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_num_attention_heads": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": 32,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 32,
}


def write(folder: Path, kind: str, *, seed: int = 0, **saving: Any) -> Path:
    """A model and its processor under ``folder``, as ``save_pretrained`` leaves them.

    Args:
        folder: made where it is not there.
        kind: a key of :data:`KINDS`.
        seed: of the weights.
        **saving: for ``save_pretrained``, such as ``max_shard_size``.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = KINDS[kind]()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                _draw(name, tensor)
    model.save_pretrained(folder, **saving)
    processor.save_pretrained(folder)
    return folder


def asked_by_words(folder: Path) -> dict[str, Any]:
    """Options of ``sam_hf`` for a SAM 3 whose every find counts: with random weights none is worth much."""
    model = write(folder, "sam3")
    return {"model_id": str(model), "text": "solar panel", "least_score": 0.0, "least_box_iou": 0.0}


def _draw(name: str, tensor: torch.Tensor) -> None:
    """Weights that keep their input's spread: as transformers draws them, prompts hardly change an answer."""
    if tensor.ndim == 1:
        tensor.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1)
    else:
        tensor.normal_(std=min(0.5, tensor[0].numel() ** -0.5) if "embed" not in name else 0.5)


def _sam() -> tuple[Any, Any]:
    from transformers import SamConfig, SamImageProcessor, SamModel

    side, patch = 128, 16
    grid = side // patch
    config = SamConfig(
        vision_config=_HEADS
        | {"output_channels": 32, "num_hidden_layers": 2, "image_size": side, "patch_size": patch, "window_size": 4}
        | {"global_attn_indexes": [1], "num_pos_feats": 16, "mlp_dim": 64},
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "patch_size": patch}
        | {"image_embedding_size": grid, "mask_input_channels": 4},
        mask_decoder_config=_DECODER,
    )
    low = {"height": 4 * grid, "width": 4 * grid}
    processor = SamImageProcessor(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        mask_size={"longest_edge": 4 * grid},
        mask_pad_size=low,
    )
    return SamModel(config), processor


def _sam2_settings() -> dict[str, Any]:
    side = 128
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "num_attention_heads": 1,
        "image_size": [side, side],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [3],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[side // step] * 2 for step in (4, 8, 16)],
        "fpn_hidden_size": 32,
    }
    prompts = {"hidden_size": 32, "image_size": side, "mask_input_channels": 4}
    return {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": _DECODER}


def _sam2() -> tuple[Any, Any]:
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

    return Sam2Model(Sam2Config(**_sam2_settings())), Sam2ImageProcessor(size={"height": 128, "width": 128})


def _sam2_video() -> tuple[Any, Any]:
    """What Meta's repositories of SAM 2 on the hub hold: the video model, images included."""
    from transformers import Sam2ImageProcessor, Sam2VideoConfig, Sam2VideoModel

    model = Sam2VideoModel(Sam2VideoConfig(**_sam2_settings(), **_MEMORY, image_size=128))
    return model, Sam2ImageProcessor(size={"height": 128, "width": 128})


def _sam3_vision() -> dict[str, Any]:
    patch = 14
    grid = SIDE // patch
    backbone = _HEADS | {
        "model_type": "sam3_vit_model",
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "image_size": SIDE,
        "patch_size": patch,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[grid * step] * 2 for step in (4, 2, 1)],
    }


def _sam3_tracker() -> tuple[Any, Any]:
    from transformers import Sam3ImageProcessor, Sam3TrackerConfig, Sam3TrackerModel

    model = Sam3TrackerModel(Sam3TrackerConfig(**_tracker_settings()))
    return model, Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})


def _tracker_settings() -> dict[str, Any]:
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 14, "mask_input_channels": 4}
    return {"vision_config": _sam3_vision(), "prompt_encoder_config": prompts, "mask_decoder_config": _DECODER}


def _sam3_settings(vocabulary: int) -> dict[str, Any]:
    layers = _HEADS | {"num_layers": 1, "intermediate_size": 64}
    text = _HEADS | {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "max_position_embeddings": 32,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    return {
        "vision_config": _sam3_vision(),
        "text_config": text,
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": layers | {"num_queries": 12},
        "mask_decoder_config": dict(_HEADS),
    }


def _sam3() -> tuple[Any, Any]:
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    tokenizer = _tokenizer()
    processor = Sam3Processor(Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer)
    return Sam3Model(Sam3Config(**_sam3_settings(len(tokenizer)))), processor


def _sam3_video() -> tuple[Any, Any]:
    """What Meta's repository of SAM 3 on the hub holds: detector and tracker of the video model."""
    from transformers import Sam3ImageProcessor, Sam3Processor, Sam3VideoConfig, Sam3VideoModel

    tokenizer = _tokenizer()
    tracker = {"model_type": "sam3_tracker_video", "image_size": SIDE} | _tracker_settings() | _MEMORY
    detector = {"model_type": "sam3"} | _sam3_settings(len(tokenizer))
    model = Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker))
    return model, Sam3Processor(Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer)


def _tokenizer() -> Any:
    """CLIP's tokenizer without merges: every byte is a token, alone and at a word's end."""
    from transformers import CLIPTokenizer

    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = [chr(byte) for byte in shown] + [chr(256 + number) for number in range(len(hidden))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sam": _sam,
    "sam2": _sam2,
    "sam2_video": _sam2_video,
    "sam3_tracker": _sam3_tracker,
    "sam3": _sam3,
    "sam3_video": _sam3_video,
}
"""Value of ``model_type`` in ``config.json`` → the model and its processor."""
