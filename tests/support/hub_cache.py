"""The local cache of the Hugging Face hub, in its own layout, filled by hand."""

import hashlib
from collections.abc import Mapping
from pathlib import Path


def put(cache: Path, repository: str, files: Mapping[str, Path], *, revision: str = "main") -> Path:
    """Keep ``files`` (name → its content) as a download of ``repository`` would; returns the snapshot's folder."""
    home = cache / f"models--{repository.replace('/', '--')}"
    commit = hashlib.sha1("".join(sorted(files)).encode(), usedforsecurity=False).hexdigest()
    snapshot = home / "snapshots" / commit
    for folder in (home / "refs", home / "blobs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    for name, source in files.items():
        blob = home / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        blob.write_bytes(source.read_bytes())
        (snapshot / name).symlink_to(blob)
    return snapshot
