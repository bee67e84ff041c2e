"""SAM 2 and SAM 2.1 through Meta's package ``sam2``: any size, from a local checkpoint or the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dataflows.mask_backends._hub import hub_file
from dataflows.mask_backends._options import PromptedOptions, parsed
from dataflows.mask_backends._prompted import PromptedBackend, PromptedModel
from dataflows.mask_backends._sam2_network import INSTALL, Sam2Model, check_config, load_network
from dataflows.mask_backends._weights import checked
from utils.errors import ConfigError, ExtraMissingError, UnknownNameError, WeightsNotFoundError

_SIZES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
MODELS = {
    f"facebook/{version}-hiera-{size}": (
        f"configs/{version}/{version}_hiera_{letter}.yaml",
        f"{version}_hiera_{size.replace('-', '_')}.pt",
    )
    for version in ("sam2", "sam2.1")
    for size, letter in _SIZES.items()
}
"""Id on the hub → its configuration in ``sam2`` and its checkpoint: segment-geospatial's ids, and those of SAM 2.1."""


@dataclass(frozen=True, kw_only=True)
class Sam2Options(PromptedOptions):
    """Options of the backend ``sam2``."""

    model_id: str | None = None
    """Id on the hub, with or without ``facebook/``; without a checkpoint ``sam2-hiera-large``, segment-geospatial's."""
    checkpoint: str | None = None
    """Path of a local checkpoint, instead of the hub's."""
    config: str | None = None
    """Path of a model's YAML file, or a name in ``sam2`` (``configs/sam2.1/sam2.1_hiera_t.yaml``); known for the ids
    and for checkpoints that keep their published name."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""

    def __post_init__(self) -> None:
        """Refuse what names no file."""
        super().__post_init__()
        told = {name: getattr(self, name) for name in ("model_id", "checkpoint", "config", "revision")}
        if not all(value is None or (isinstance(value, str) and value) for value in told.values()):
            raise ConfigError(f"mask_options: {', '.join(told)} are text or null; found {told}")


class Sam2Backend(PromptedBackend):
    """Masks from SAM 2 and 2.1; options are the fields of :class:`Sam2Options`."""

    name = "sam2"
    options_type = Sam2Options
    options: Sam2Options

    @classmethod
    def weights_files(cls, **options: object) -> Mapping[str, str]:
        """``checkpoint`` and ``config``: local files; the checkpoint is downloaded where ``download`` asks for it.

        Raises:
            UnknownNameError: there is no such option, id or configuration.
            ConfigError: an option is refused, or no configuration is known for the checkpoint.
            WeightsNotFoundError: a file is missing.
            WeightsError: a file is no checkpoint, or no configuration of a SAM 2 model.
            ExtraMissingError: ``sam2`` is not installed.
        """
        chosen = parsed(Sam2Options, options, cls.name)
        model_id = _model_id(chosen)
        config = _config_file(chosen, model_id)
        check_config(config)
        if chosen.checkpoint is not None:
            checkpoint = checked(Path(chosen.checkpoint).expanduser(), backend=cls.name)
        else:
            kept = hub_file(
                model_id,
                MODELS[model_id][1],
                backend=cls.name,
                revision=chosen.revision,
                download=chosen.download,
            )
            checkpoint = checked(kept, backend=cls.name)
        return {"checkpoint": str(checkpoint), "config": str(config)}

    def _load(self) -> PromptedModel:
        files = self.weights_files(**vars(self.options))
        network = load_network(Path(files["config"]), Path(files["checkpoint"]))
        return Sam2Model(network, self.options)


def _model_id(options: Sam2Options) -> str:
    """Full id on the hub; empty for a checkpoint without one.

    Raises:
        UnknownNameError: no such model is published.
    """
    if options.model_id is None:
        return "" if options.checkpoint is not None else "facebook/sam2-hiera-large"
    full = options.model_id if "/" in options.model_id else f"facebook/{options.model_id}"
    if full not in MODELS:
        raise UnknownNameError("model of the mask backend 'sam2'", options.model_id, list(MODELS))
    return full


def _config_file(options: Sam2Options, model_id: str) -> Path:
    published = {file: config for config, file in MODELS.values()}
    name = options.config
    if name is None:
        known = MODELS[model_id][0] if model_id else published.get(Path(options.checkpoint or "").name)
        if known is None:
            raise ConfigError(
                f"mask_options: the checkpoint {options.checkpoint} has no published name ({', '.join(published)}); "
                "say which model it is: `config: configs/sam2.1/sam2.1_hiera_t.yaml`, a path, or `model_id`"
            )
        name = known
    own = Path(name).expanduser()
    if own.is_file():
        return own
    if name not in published.values():
        raise WeightsNotFoundError(
            f"mask_options: config {name!r} is no file, and sam2 has none of that name; it has "
            f"{', '.join(sorted(published.values()))}"
        )
    package = find_spec("sam2")
    if package is None or not package.submodule_search_locations:
        raise ExtraMissingError(f"the configuration {name} is part of sam2, which is not installed: {INSTALL}")
    return Path(package.submodule_search_locations[0]) / name
