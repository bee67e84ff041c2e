"""Bytes that promoting a generation writes, beside a rewrite of the whole table; and seconds of both.

    python benchmarks/backfill_bytes.py STORE --generation 1

The store is copied: nothing in it changes. The share is the size of the files that ``training_data`` gains, its
manifests and indexes among them, over the size of the newest version's data when it is written anew.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import lance

from store import lance_io, promotion
from store.backfill_schemas import mask_columns


def main() -> None:
    """Promote, roll back and rewrite in a copy, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--generation", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        shutil.copytree(arguments.store, store)
        print(json.dumps(figures(str(store), arguments.generation), indent=1))


def figures(store: str, generation: int) -> dict[str, object]:
    """What promotion, its rollback and a rewrite of the table cost."""
    start = time.perf_counter()
    name = promotion.candidate_table(store, generation)
    beside_s = time.perf_counter() - start
    beside = folder_bytes(Path(lance_io.table_uri(store, name)))
    promotion.drop_candidate_table(store, generation)
    start = time.perf_counter()
    receipt = promotion.promote(store, generation, "benchmark")
    promoted_s = time.perf_counter() - start
    whole, rewritten_s = rewritten(store)
    start = time.perf_counter()
    back = promotion.rollback(store, "benchmark")
    table = lance_io.open_table(store, "training_data")
    return {
        "rows of the table": table.count_rows(),
        "chips of the generation": receipt.chips,
        "columns written": len(mask_columns(table.schema)),
        "bytes of a rewrite": whole,
        "bytes of the promotion": receipt.bytes_written,
        "share": round(receipt.bytes_written / whole, 5),
        "bytes of the candidate table": beside,
        "bytes of the rollback": back.bytes_written,
        "seconds": {
            "candidate table": round(beside_s, 3),
            "promotion": round(promoted_s, 3),
            "rollback": round(time.perf_counter() - start, 3),
            "rewrite": round(rewritten_s, 3),
        },
    }


def rewritten(store: str) -> tuple[int, float]:
    """Bytes and seconds of writing the newest version of the table anew."""
    place, start = Path(store) / "rewritten.lance", time.perf_counter()
    reader = lance_io.open_table(store, "training_data").scanner(batch_size=64).to_reader()
    lance.write_dataset(reader, str(place), data_storage_version=lance_io.STORAGE_VERSION)
    return folder_bytes(place), time.perf_counter() - start


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
