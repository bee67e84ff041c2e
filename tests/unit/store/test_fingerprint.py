"""Hashes that change with what they stand for."""

import pytest

from store.fingerprint import checksum, digest, place_checksum


def test_digest_knows_values_not_their_order():
    assert digest({"a": [1, 2], "b": None}) == digest({"b": None, "a": (1, 2)})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    assert digest("1") != digest(1)
    assert len(digest({})) == 16


def test_checksum_sees_size_head_and_tail(tmp_path):
    path = tmp_path / "a"

    def of(content: bytes) -> str:
        path.write_bytes(content)
        return checksum(path)

    base = bytes(300_000)
    assert of(base) == of(base)
    assert len({of(base), of(base + b"\0"), of(b"\1" + base[1:]), of(base[:-1] + b"\1"), of(b""), of(b"\0")}) == 6
    with pytest.raises(FileNotFoundError):
        checksum(tmp_path / "no")


def test_places_that_are_no_files_stand_for_themselves(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert place_checksum(str(tmp_path / "a")) == checksum(tmp_path / "a")
    assert place_checksum("https://example.org/a.tif") == "https://example.org/a.tif"
    gone = place_checksum(str(tmp_path / "b"))
    assert "FileNotFoundError" in gone
    assert str(tmp_path / "b") in gone
    assert place_checksum(str(tmp_path)) != place_checksum(str(tmp_path / "a"))
