"""A SAM 2 of the real classes with random weights, small enough to be built for a test."""

from pathlib import Path
from typing import Any

import torch
import yaml

SIDE = 128
WIDTH = 64
_MEMORY = 16


def write(folder: Path, *, seed: int = 0) -> dict[str, str]:
    """A checkpoint and its configuration under ``folder``, as options of the backend ``sam2``."""
    folder.mkdir(parents=True, exist_ok=True)
    config, checkpoint = folder / "tiny_sam2.yaml", folder / "tiny_sam2.pt"
    config.write_text(yaml.safe_dump({"model": settings()}))
    torch.save({"model": network(seed).state_dict()}, checkpoint)
    return {"config": str(config), "checkpoint": str(checkpoint)}


def network(seed: int = 0) -> Any:
    """``SAM2Base`` with random weights, 1.4 M parameters, for images of 128 pixels."""
    import sam2  # noqa: F401 - it sets Hydra up
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = instantiate(OmegaConf.create(settings()), _recursive_=True)
        # as drawn, both are zero and their use would go unseen
        torch.nn.init.normal_(model.no_mem_embed, std=0.5)
        torch.nn.init.normal_(model.image_encoder.trunk.pos_embed, std=0.5)
    return model.eval()


def settings() -> dict[str, Any]:
    """The part ``model`` of the configuration: SAM 2.1 tiny with fewer and narrower layers."""
    import sam2
    from omegaconf import OmegaConf

    path = Path(sam2.__path__[0]) / "configs/sam2.1/sam2.1_hiera_t.yaml"
    model: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path).model)
    model["image_size"] = SIDE
    trunk = {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3], "window_spec": [8, 4, 4, 4]}
    model["image_encoder"]["trunk"] |= trunk
    neck = model["image_encoder"]["neck"]
    neck |= {"d_model": WIDTH, "backbone_channel_list": [128, 64, 32, 16]}
    neck["position_encoding"]["num_pos_feats"] = WIDTH
    attention = model["memory_attention"]
    attention |= {"d_model": WIDTH, "num_layers": 1}
    attention["layer"] |= {"d_model": WIDTH, "dim_feedforward": WIDTH}
    attention["layer"]["self_attention"]["embedding_dim"] = WIDTH
    attention["layer"]["cross_attention"] |= {"embedding_dim": WIDTH, "kv_in_dim": _MEMORY}
    memory = model["memory_encoder"]
    memory["out_dim"] = memory["position_encoding"]["num_pos_feats"] = _MEMORY
    memory["fuser"] |= {"num_layers": 1}
    memory["fuser"]["layer"]["dim"] = WIDTH
    return model
