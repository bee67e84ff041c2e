"""Lance tables as batches: pinned, filtered, leak-checked, deterministic and resumable."""

import os
from dataclasses import replace
from typing import Any

import pyarrow as pa
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from store.lance_io import DEFAULT_STORE, open_table
from store.schemas import profile_of
from training import keys as key_columns
from training.augment import Augmentation
from training.dataset import ChipDataset, TableRef
from training.inputs import InputSpec, input_spec
from training.loader import ChipLoader
from training.normalisation import ChannelStats, channel_stats
from training.sampling import BatchPlan
from utils.errors import ConfigError

_WHAT_THE_MODEL_SEES = ("mode", "bands", "indices", "msi_window_px", "msi_positive_fraction")
_WHAT_A_RESUME_KEEPS = (
    *_WHAT_THE_MODEL_SEES,
    *("table", "version", "where", "batch_size", "seed", "train_crop_px", "crops_per_chip", "augment", "stats_chips"),
)
_NEEDED = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class LanceDataModule(LightningDataModule):
    """Chips of a ``training_data`` table for fit, validate, test and predict.

    ``setup("fit")`` pins the table, refuses empty or leaking splits, and computes the train split's statistics.
    Batches are a function of (seed, epoch); a checkpoint holds the position within the epoch.

    Args:
        store: LanceDB store, a folder or URI; None takes $AEGIR_STORE, else data/lancedb.
        table: table name.
        version: version number or tag; None pins the newest one at setup and records it.
        where: extra row filter in Lance SQL, for instance ``cloud_fraction < 0.2``.
        mode: ``vhr`` (RGB → mask) or ``msi`` (bands and indices → thresholded area fraction).
        bands: multispectral bands in order; None for all of the table's. Mode ``msi`` only.
        indices: spectral indices (``utils.indices``) appended as channels. Mode ``msi`` only.
        msi_window_px: side of the central multispectral window, pixels.
        msi_positive_fraction: area fraction from which a multispectral pixel is PV.
        guard_m: least distance between VHR footprints of different splits, metres; None takes the store's split rule.
        batch_size: chips per batch and rank.
        train_crop_px: side of the random training crop in mode ``vhr``, pixels; None trains on whole chips.
        crops_per_chip: training crops drawn from each chip per epoch, in mode ``vhr`` with ``train_crop_px``.
        augment: whether training samples are turned, mirrored and changed in radiometry.
        stats_chips: most training chips used for normalisation statistics, drawn by ``seed``.
        seed: seed of order and augmentation.
        threads: batches read ahead by threads of this process.
        num_workers: reader processes (forkserver); 0 suffices for uncompressed chips.
        predict_split: split that ``predict`` runs on; ``all`` for every row.

    Raises:
        ConfigError: a setting does not fit the table.
        SplitError: a needed split is empty; SplitLeakError: splits leak.
        TableNotFoundError: store, table or version do not exist.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of the command line
        self,
        *,
        store: str | None = None,
        table: str = "training_data",
        version: int | str | None = None,
        where: str | None = None,
        mode: str = "vhr",
        bands: list[str] | None = None,
        indices: list[str] | None = None,
        msi_window_px: int = 12,
        msi_positive_fraction: float = 0.25,
        guard_m: float | None = None,
        batch_size: int = 8,
        train_crop_px: int | None = None,
        crops_per_chip: int = 2,
        augment: bool = True,
        stats_chips: int = 512,
        seed: int = 42,
        threads: int = 2,
        num_workers: int = 0,
        predict_split: str = "test",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.store = store or os.environ.get("AEGIR_STORE") or DEFAULT_STORE
        self.table, self.version, self.where = table, version, where
        self.mode, self.bands, self.indices = mode, bands, indices or []
        self.msi_window_px, self.msi_positive_fraction = msi_window_px, msi_positive_fraction
        self.guard_m, self.stats_chips = guard_m, stats_chips
        self.batch_size, self.threads, self.num_workers = batch_size, threads, num_workers
        self.train_crop_px, self.crops_per_chip = train_crop_px, crops_per_chip
        self.augment, self.seed = augment, seed
        self.predict_split = predict_split
        if min(batch_size, stats_chips, crops_per_chip) < 1:
            raise ConfigError("batch_size, stats_chips and crops_per_chip must be at least 1")
        self._ref: TableRef | None = None
        self._spec: InputSpec | None = None
        self._keys: pa.Table | None = None
        self._stats: ChannelStats | None = None
        self._record: dict[str, Any] = {}
        self._train: ChipLoader | None = None
        self._position: dict[str, int] | None = None

    @property
    def spec(self) -> InputSpec:
        """What is read from each row; opens the table's schema on first use."""
        if self._spec is None:
            profile = profile_of(open_table(self.store, self.table, self.version).schema)
            self._spec = input_spec(
                profile,
                self.mode,
                bands=self.bands,
                indices=self.indices,
                msi_window_px=self.msi_window_px,
                msi_positive_fraction=self.msi_positive_fraction,
            )
        return self._spec

    @property
    def n_channels(self) -> int:
        """Channels of an input; the command line links the model's ``in_channels`` to it."""
        return len(self.spec.channels)

    @property
    def stats(self) -> ChannelStats:
        """Normalisation statistics of the train split, known after ``setup("fit")``."""
        if self._stats is None:
            raise ConfigError('statistics are known after setup("fit")')
        return self._stats

    @property
    def record(self) -> dict[str, Any]:
        """What a run was trained on, in plain types: table version, recipes, filter, split rule, bands, statistics."""
        return self._record

    def setup(self, stage: str) -> None:
        """Pin the table, read its keys and check the splits that ``stage`` needs."""
        self._pin(self.version)
        for split in _NEEDED.get(stage, ()):
            key_columns.require_pv(self._key_table, split, self.where)
        if stage == "fit":
            self._position = None
            self._prepare_fit()

    def train_dataloader(self) -> ChipLoader:
        """Shuffled, augmented batches of the train split."""
        crop_px = self.train_crop_px if self.mode == "vhr" else None
        augmentation = Augmentation(seed=self.seed, crop_px=crop_px)
        if not self.augment:
            augmentation = replace(augmentation, dihedral=False, gain=0.0, offset=0.0)
        draws = self.crops_per_chip if crop_px else 1
        self._train = self._loader(self._dataset("train", augmentation), shuffle=True, draws=draws)
        if self._position is not None:
            self._train.load_state_dict(self._position)
        return self._train

    def val_dataloader(self) -> ChipLoader:
        """Whole chips of the val split in key order."""
        return self._loader(self._dataset("val"), shuffle=False)

    def test_dataloader(self) -> ChipLoader:
        """Whole chips of the test split in key order."""
        return self._loader(self._dataset("test"), shuffle=False)

    def predict_dataloader(self) -> ChipLoader:
        """Whole chips of ``predict_split`` in key order, masked or not."""
        return self._loader(self._dataset(self.predict_split, known_only=False), shuffle=False)

    def state_dict(self) -> dict[str, Any]:
        """Settings with the pinned version, the record of the run, and the position within the epoch."""
        settings = {name: value for name, value in self.hparams.items() if not name.startswith("_")}
        settings["store"] = self.store
        if self._ref is not None:
            settings["version"] = self._ref.version
        # not only in the loader: Lightning restores loaders too late where a schedule asks for their length
        position = self._train.state_dict() if self._train is not None else None
        return {"settings": settings, "record": self._record, "position": position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint made with other data settings; a resumed fit returns to its table version.

        Raises:
            ConfigError: settings differ from those of the checkpoint.
        """
        settings = state_dict["settings"]
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        names = _WHAT_A_RESUME_KEEPS if fitting else _WHAT_THE_MODEL_SEES
        ours = {name: self.hparams[name] for name in names}
        if fitting:
            ours["version"] = settings["version"] if self.version is None else self._pinned.version
        differing = [
            f"{name}: {settings[name]!r} there, {ours[name]!r} here" for name in names if settings[name] != ours[name]
        ]
        if differing:
            raise ConfigError(
                "the checkpoint was made with other data settings (" + "; ".join(differing) + "); "
                "give the same, or leave them out: `python -m training` takes them from the checkpoint"
            )
        if fitting:
            self._position = state_dict["position"]
        if fitting and self._pinned.version != settings["version"]:
            self._pin(settings["version"])
            self._prepare_fit()

    @property
    def _key_table(self) -> pa.Table:
        if self._keys is None:
            raise ConfigError("call setup() before asking for data")
        return self._keys

    def _pin(self, version: int | str | None) -> None:
        if version is None and self._ref is not None:
            return
        number = int(open_table(self.store, self.table, version).version)
        if self._ref is None or self._ref.version != number:
            self._ref = TableRef(store=self.store, table=self.table, version=number)
            self._keys = key_columns.scan_keys(self._ref, self.spec, self.where)
            self._stats = None

    def _prepare_fit(self) -> None:
        if self._stats is not None:
            return
        keys = self._key_table
        rule = key_columns.split_rule(self.store)
        guard_m = self.guard_m if self.guard_m is not None else (rule or {}).get("guard_m")
        if guard_m is None:
            raise ConfigError(f"the store {self.store} records no split rule; say the guard distance with data.guard_m")
        key_columns.check_split_leaks(keys, self.spec, guard_m)
        self._stats = channel_stats(self._dataset("train"), max_chips=self.stats_chips, seed=self.seed)
        chips = {split: len(key_columns.split_rows(keys, split)) for split in key_columns.SPLIT_NAMES}
        self._record = self._describe(dict(rule) if rule else None, float(guard_m), chips)
        rank_zero_info(
            f"{self.store}/{self.table} version {self._record['version']}: "
            + ", ".join(f"{count} {split}" for split, count in chips.items())
            + f" chips; channels {', '.join(self.spec.channels)}"
        )

    def _describe(self, rule: dict[str, Any] | None, guard_m: float, chips: dict[str, int]) -> dict[str, Any]:
        ref, stats = self._pinned, self.stats
        return {
            "store": ref.store,
            "table": ref.table,
            "version": ref.version,
            "where": self.where,
            "recipes": key_columns.recipes(self._key_table),
            "split_rule": rule,
            "guard_m": guard_m,
            "chips": chips,
            "inputs": self.spec.as_dict(),
            "channels": list(self.spec.channels),
            "mean": list(stats.mean),
            "std": list(stats.std),
            "stats_chips": stats.n_chips,
            "seed": self.seed,
        }

    @property
    def _pinned(self) -> TableRef:
        if self._ref is None:
            raise ConfigError("call setup() before asking for data")
        return self._ref

    def _dataset(self, split: str, augmentation: Augmentation | None = None, *, known_only: bool = True) -> ChipDataset:
        rows = key_columns.require_rows(self._key_table, split, self.where, known_only=known_only)
        return ChipDataset(self._pinned, self.spec, rows.uuids, rows.offsets, augmentation, rows.weights)

    def _loader(self, dataset: ChipDataset, *, shuffle: bool, draws: int = 1) -> ChipLoader:
        trainer = self.trainer
        plan = BatchPlan(
            n_rows=len(dataset) * draws,
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
        )
        return ChipLoader(dataset, plan, threads=self.threads, workers=self.num_workers)
