"""Fits in a process of their own, each in a folder named after what it was trained on: made once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lance

from dataflows.backfill_settings import GateSettings
from store import lance_io, promotion
from store.fingerprint import digest
from training.runs import newest_checkpoint
from utils.errors import PromotionError

_DONE = "trained"


def fit_model(
    store: str,
    settings: GateSettings,
    *,
    table: str = "training_data",
    version: int | None = None,
    written_at: str | None = None,
) -> Path:
    """Train on a table as it is, unless that was done before; returns the best checkpoint.

    Args:
        store: the store.
        settings: epochs, seed and further arguments of the fit, and the folder it goes to.
        table: table to train on.
        version: its version; None is the newest.
        written_at: when its rows were written; None is when that version was.

    Raises:
        TableNotFoundError: the store has no such table or version.
        PromotionError: the fit failed; its output is beside it.
    """
    dataset = lance_io.open_table(store, table, version)
    number = int(dataset.version)
    # a store made anew at the same place counts its versions from 1 again
    written = written_at or _written_at(dataset)
    told = [str(Path(store).resolve()), table, number, written, settings.epochs, settings.seed, *settings.fit_arguments]
    folder = Path(settings.out) / f"{table}-v{number}-{digest(told)[:8]}"
    if (folder / _DONE).is_file():
        found = newest_checkpoint(folder)
        if found is not None:
            return found
    # a fit that was killed starts anew: it takes minutes, and ends as it would have
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "fit.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "training", "fit", *_arguments(store, table, number, folder, settings)]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        code = subprocess.run(command, check=False, env=environment, stdout=file, stderr=file).returncode  # noqa: S603
    checkpoint = newest_checkpoint(folder)
    if code or checkpoint is None:
        last = " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        raise PromotionError(f"the fit on {table} version {number} ended with exit code {code}: {last} ({log})")
    (folder / _DONE).write_text(str(checkpoint))
    return checkpoint


def fit_candidate(store: str, generation: int, settings: GateSettings) -> Path:
    """:func:`fit_model` on a generation's masks, in a table beside ``training_data`` that is gone afterwards.

    Raises:
        PromotionError: the generation has no candidates, its chips changed since, or the fit failed.
    """
    # the table beside it is made again for every fit
    written_at = _written_at(lance_io.open_table(store, promotion.TABLE))
    try:
        name = promotion.candidate_table(store, generation)
        return fit_model(store, settings, table=name, written_at=written_at)
    finally:
        promotion.drop_candidate_table(store, generation)


def _written_at(dataset: lance.LanceDataset) -> str:
    """When the version that is open was committed."""
    return next(str(one["timestamp"]) for one in dataset.versions() if one["version"] == dataset.version)


def _arguments(store: str, table: str, version: int, folder: Path, settings: GateSettings) -> list[str]:
    return [
        f"--data.store={store}",
        f"--data.table={table}",
        f"--data.version={version}",
        f"--data.seed={settings.seed}",
        f"--seed_everything={settings.seed}",
        f"--trainer.max_epochs={settings.epochs}",
        f"--trainer.logger.save_dir={folder.parent}",
        f"--trainer.logger.name={folder.name}",
        *settings.fit_arguments,
    ]
