"""The build flow with its tables and imagery in an object store: same rows, and it survives what networks do."""

import io
import json
import logging
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from dataflows import drivers
from dataflows.__main__ import main
from dataflows.config import from_mapping
from store import lance_io
from support import mini_region
from support.object_store import KEY_ID, MARKED, SECRET, TOKEN
from support.store_rows import rows_for
from utils import errors

VOLATILE = {"created_at", "run_id", "occurred_at", "started_at", "finished_at", "added_at", "label_catalog"}
COMPARED = ("training_data", "masks", "prompts")


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    return mini_region.make(tmp_path_factory.mktemp("mini") / "region")


@pytest.fixture(scope="module")
def local(region):
    drivers.run("build", region.settings)
    return region.settings["store"]


@pytest.fixture
def remote(region, told):
    """Settings of the region with everything but the labels in a new bucket."""
    bucket = told.bucket()
    for kind in ("vhr", "msi"):
        told.upload(region.root / kind, f"{bucket}/imagery/{kind}")
    return region.settings | {
        "store": f"{bucket}/tables",
        "vhr": region.settings["vhr"] | {"root": f"{bucket}/imagery/vhr"},
        "msi": region.settings["msi"] | {"root": f"{bucket}/imagery/msi"},
    }


def table(store, name):
    """All rows by key, without times and run ids."""
    found = lance_io.open_table(store, name).to_table()
    key = found.schema.names[0]
    return found.drop_columns([n for n in found.schema.names if n in VOLATILE]).sort_by(key)


def same(store, other):
    for name in COMPARED:
        one, two = table(store, name), table(other, name)
        differing = [column for column in one.schema.names if not one[column].equals(two[column])]
        print(f"{name}: {len(one)} rows of {len(one.schema)} columns compared, {len(differing)} columns different")
        assert len(one)
        assert differing == []


def test_the_whole_flow_gives_the_rows_of_folders(remote, local):
    summary = drivers.run("build", remote)
    assert (summary.status, summary.chips_failed) == ("done", 0)
    same(remote["store"], local)
    again = drivers.run("build", remote)
    assert (again.chips_pending, again.chips_written) == (0, 0)


def told_only(monkeypatch):
    """Take the credentials out of the environment: only the settings hold them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)


def leaked(texts: dict[str, str | bytes]) -> list[str]:
    """Where a marked secret, or a form of it, can be read."""
    forms = {form for secret in MARKED for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
    return [
        f"{form[:4]}… in {place}"
        for place, text in texts.items()
        for form in sorted(forms)
        if (form.encode() if isinstance(text, bytes) else form) in text
    ]


def all_rows(store):
    return {
        name: json.dumps(lance_io.open_table(store, name).to_table(columns=columns).to_pylist(), default=repr)
        for name in lance_io.table_names(store)
        for columns in [[f.name for f in lance_io.open_table(store, name).schema if "chip" not in f.name]]
    }


def settings_file(path: Path, settings: dict) -> Path:
    path.write_text(yaml.safe_dump({"flow": "build", **json.loads(json.dumps(settings))}))
    return path


def test_secrets_never_show(remote, told, tmp_path, monkeypatch, capfd):
    told_only(monkeypatch)
    monkeypatch.setenv("AEGIR_CACHE", str(tmp_path / "cache"))
    settings = remote | {"storage_options": told.options | {"client_max_retries": 1}}
    file = settings_file(tmp_path / "flow.yaml", settings)
    texts: dict[str, str | bytes] = {}

    def run(case: str, wanted: int, *arguments: str) -> None:
        assert main(["run", "--config", str(file), "--json", *arguments]) == wanted
        out, err = capfd.readouterr()
        texts[f"output, {case}"] = out + err
        assert wanted != 2 or "Error: " in err, err

    with caplog_of_everything() as log:
        with told.faults({"kind": "cut", "path": r"imagery/vhr/\w+\.tif", "skip": 12}):
            run("imagery away", 3)
        run("success", 0, "--retry-errors")
        with told.faults({"kind": "status", "status": 403}):
            run("403", 2, "--store", f"{remote['store']}/other")
        with told.faults({"kind": "cut"}):
            run("unreachable", 2)
        with told.faults({"kind": "status", "status": 403, "path": "imagery"}):
            run("imagery 403", 2)
        run("no bucket", 2, "--store", "s3://bucket-that-is-not-there/x", "--set", "storage_options={}")
        for text in (f"s3://{KEY_ID}:{quote(SECRET, safe='')}@bucket/x", f"s3://b/{KEY_ID}?X-Amz-Signature={TOKEN}"):
            run("credentials in the URI", 2, "--store", text)
        run("an unknown option", 2, "--set", f"storage_options={{aws_secret: {json.dumps(SECRET)}}}")
        run("options that are text", 2, "--set", f"storage_options=aws_secret_access_key={SECRET}")
        file.write_text(file.read_text() + f"\naws_session_token: [{TOKEN}\n")
        run("a broken file", 2)
    config = from_mapping(settings)
    texts |= {
        "log": log.getvalue(),
        "repr": repr(config),
        "text": str(config),
        "JSON": json.dumps(asdict(config), default=str),
        "error": str(errors.StoreError(f"GET http://u:{SECRET}@host/?X-Amz-Signature={TOKEN} by {KEY_ID}")),
    }
    texts |= {f"rows of {name}": text for name, text in all_rows(remote["store"]).items()}
    texts |= {key: told.content(f"{remote['store'].rpartition('/')[0]}/{key}") for key in told.keys(remote["store"])}
    texts |= {str(path): path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    print(f"{len(texts)} texts searched, {sum(map(len, texts.values()))} characters and bytes")
    assert {"rows of runs", "rows of scenes", "rows of errors"} <= texts.keys()
    assert leaked(texts) == []
    assert "***" in texts["rows of runs"]
    assert leaked({"a place that does leak": f"x{SECRET}x"})


@contextmanager
def caplog_of_everything():
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_settings_reach_the_store_in_another_process(remote, told, tmp_path, monkeypatch):
    told_only(monkeypatch)
    config = from_mapping(remote | {"storage_options": told.options})
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    program = (
        "import pickle, sys; from store import lance_io; "
        "config = pickle.loads(open(sys.argv[1], 'rb').read()); print(lance_io.table_names(config.store), config)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "config")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("[] BuildConfig(")
    assert leaked({"output": done.stdout + done.stderr}) == []


def test_read_only_credentials_are_refused_before_work(remote, told):
    with told.read_only(), told.watched() as seen, pytest.raises(errors.StoreNotWritableError, match="refuses"):
        drivers.run("build", remote)
    assert not [request for request in seen if "imagery" in request]
    assert not [key for key in told.keys(remote["store"]) if key.startswith("tables")]
    drivers.run("build", remote)
    with told.read_only(), pytest.raises(errors.StoreNotWritableError, match="refuses"):
        lance_io.write(remote["store"], "splits", rows_for("splits"))
    assert len(lance_io.scan(remote["store"], "training_data", ["uuid"]))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "cut"}, errors.StoreUnreachableError),
        ({"kind": "status", "status": 503}, errors.StoreUnreachableError),
        ({"kind": "status", "status": 403}, errors.StoreNotWritableError),
        ({"kind": "cut", "path": "imagery"}, errors.RasterUnreachableError),
        ({"kind": "status", "status": 403, "path": "imagery"}, errors.RasterDeniedError),
    ],
)
def test_what_is_not_there_at_the_start_is_told_apart(remote, told, fault, error):
    with told.faults(fault), pytest.raises(error):
        drivers.run("build", remote)
    assert not [key for key in told.keys(remote["store"]) if key.startswith("tables")]


@pytest.mark.slow
def test_imagery_that_is_away_for_a_while_is_read_in_the_next_run(remote, local, told):
    with told.faults({"kind": "cut", "path": r"imagery/vhr/\w+\.tif", "skip": 12}):
        first = drivers.run("build", remote)
    kinds = set(lance_io.scan(remote["store"], "errors", ["error_type"])["error_type"].to_pylist())
    print(f"{first.chips_failed} chips failed: {kinds}")
    assert first.chips_failed
    assert kinds == {"RasterUnreachableError"}
    second = drivers.run("build", remote)
    assert (second.status, second.chips_failed, second.chips_failed_before) == ("done", 0, 0)
    same(remote["store"], local)


@pytest.mark.slow
def test_two_runs_at_once_write_every_row_once(remote, local, told, tmp_path):
    file = settings_file(tmp_path / "flow.yaml", remote | {"commit_every": 1})
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "dataflows", "run", "--config", str(file), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
        )
        for _ in range(2)
    ]  # fmt: skip
    for run in runs:
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
    keys = lance_io.scan(remote["store"], "training_data", ["uuid"])["uuid"].to_pylist()
    assert len(keys) == len(set(keys))
    same(remote["store"], local)


OUTAGES = {
    "commit of chips": {
        "kind": "status",
        "status": 503,
        "methods": ["PUT"],
        "path": r"training_data\.lance/_versions",
        "skip": 2,
    },
    "everything": {"kind": "cut", "skip": 160},
}


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_run_that_loses_its_store_half_way_goes_on_when_it_is_back(remote, local, told, outage):
    with told.faults(OUTAGES[outage]), pytest.raises(errors.StoreUnreachableError, match="does not answer"):
        drivers.run("build", remote)
    written = lance_io.scan(remote["store"], "training_data", ["uuid"])
    summary = drivers.run("build", remote, retry_errors=True)
    print(f"{len(written)} rows before the outage, {summary.chips_written} after it")
    assert summary.status == "done"
    same(remote["store"], local)


FLAKY = [
    {"kind": "status", "status": 503, "every": 9},
    {"kind": "status", "status": 500, "every": 31},
    {"kind": "cut", "every": 17, "path": "tables"},
    {"kind": "lost", "every": 5, "methods": ["PUT"], "path": "tables"},
    {"kind": "drop", "after": 100, "every": 7, "methods": ["GET"]},
    {"kind": "delay", "seconds": 0.5, "every": 23},
]


@pytest.mark.slow
def test_a_network_that_drops_and_delays_and_answers_503_changes_no_row(remote, local, told):
    with told.faults(*FLAKY), told.watched() as seen:
        summary = drivers.run("build", remote)
    print(f"{len(seen)} requests")
    assert (summary.status, summary.chips_failed) == ("done", 0)
    same(remote["store"], local)
