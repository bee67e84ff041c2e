"""What the command line shows, word for word, whatever the names in it look like."""

import io
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from rich.console import Console

from dataflows import terminal
from dataflows.run_summary import RunSummary
from store.lance_io import DEFAULT_STORE


@pytest.fixture
def shown(monkeypatch):
    """Everything printed, as plain text on a wide terminal."""
    text = io.StringIO()
    monkeypatch.setattr(
        terminal, "Console", lambda **options: Console(**options | {"file": text, "width": 400, "stderr": False})
    )
    return text


def chain(*, label="pv/1", scene="S2_A", store="labels.ducklake", run=True):
    when = datetime(2023, 6, 14, 10, tzinfo=UTC)
    return {
        "chip": {
            "uuid": "0123abcd-1", "chip_role": "labelled", "split": "train", "s2_cell": 0x47A1, "image_recipe": "img1",
            "generation": 0, "mask_source": "machine", "mask_recipe": "msk1", "n_accepted": 1, "n_review": 0,
            "n_rejected": 2,
        },
        "prompts": [
            {"kind": "box", "label_id": label, "label_table": "pv", "label_snapshot": 6, "label_catalog": store}
        ],
        "scenes": [{"scene_id": scene, "sensor": "plane", "acquired_at": when, "source": "local"}],
        "masks": [
            {
                "verdict": "accept", "backend": "classical", "score": 0.876, "area_m2": 41.6, "flags": ["clipped"],
                "prompt_id": "fedcba9876",
            }
        ],
        "run": {
            "run_id": "run1", "flow": "build", "started_at": when, "status": "done", "recipes": {"mask": "msk1"},
            "code": {"mask": {"a": "1", "b": "2"}}, "packages": {"numpy": "2.1"},
        } if run else None,
    }  # fmt: skip


def test_a_chain_names_label_image_mask_and_code(shown):
    terminal.print_chain(chain())
    text = shown.getvalue()
    for words in (
        "chip 0123abcd-1  labelled, split train, S2 cell 47a1",
        "box pv/1 from pv at snapshot 6 of labels.ducklake",
        "images: recipe img1",
        "S2_A, plane, 2023-06-14 (local)",
        "1 accepted, 0 for review, 2 rejected",
        "accept classical score 0.88, 42 m² (clipped), prompt fedcba98",
        "run run1 of build, 2023-06-14 10:00, done",
        "mask recipe msk1: 2 modules",
        "numpy 2.1",
    ):
        assert words in text


def test_a_chip_without_a_run_is_shown_all_the_same(shown):
    terminal.print_chain(chain(run=False))
    assert "code:" not in shown.getvalue()


@pytest.mark.parametrize("name", ["roof [old]", "[/red]", "[bold]x", "a\\[b]", ":smile:", "[link=x]y"])
def test_names_are_shown_as_they_are(shown, name):
    terminal.print_chain(chain(label=f"pv/{name}", scene=name, store=name))
    assert f"box pv/{name} from pv at snapshot 6 of {name}" in shown.getvalue()
    assert f"{name}, plane" in shown.getvalue()


def summary(**changes):
    known = {
        "run_id": "run1",
        "status": "done",
        "chips_planned": 9,
        "chips_written": 4,
        "chips_skipped": 5,
        "seconds": 12.34,
    }
    return RunSummary(flow="build", **(known | changes))


def test_a_summary_counts(shown):
    terminal.print_summary(
        summary(store="data/lancedb", masks={"accept": 7, "review": 2, "reject": 1, "not_in_chip": 0})
    )
    text = shown.getvalue()
    for words in (
        "run run1: done",
        "9 planned, 4 written, 5 already there",
        "7 accept, 2 review",
        "12.3 s",
        "data/lancedb",
    ):
        assert words in text
    assert "what failed" not in text


@pytest.mark.parametrize("store", ["data/lancedb", "data/[old] lancedb", "s3://[/x]"])
def test_failures_say_where_to_look(shown, store):
    terminal.print_summary(summary(status="failed", chips_failed=2, store=store))
    assert f"python -m store errors --store {store}" in shown.getvalue()
    assert shown.getvalue().count(store) == 2


def test_the_store_asked_for_then_the_environments_then_the_default(monkeypatch):
    monkeypatch.setenv("AEGIR_STORE", "from the environment")
    assert terminal.store_place("asked") == "asked"
    assert terminal.store_place(None) == "from the environment"
    monkeypatch.delenv("AEGIR_STORE")
    assert terminal.store_place(None) == DEFAULT_STORE
    assert terminal.store_place("") == DEFAULT_STORE


def test_progress_follows_the_summary(monkeypatch, capsys):
    states = [summary(chips_pending=10, chips_made=k, chips_failed=1) for k in (2, 9)]

    def run(name, config, *, retry_errors, since_snapshot, progress):
        for state in states:
            progress(state)
        return states[-1]

    monkeypatch.setattr(terminal.drivers, "run", run)
    assert terminal.build_with_progress(None) is states[-1]
    drawn = capsys.readouterr().err
    assert "10/10" in drawn
    assert "1 failed" in drawn
    assert "5 skipped" in drawn


@pytest.mark.parametrize("fresh", [True, False])
def test_the_samples_bar_ends_full(monkeypatch, capsys, fresh):
    def run_sample(*, root, size, seed, progress):
        if fresh:
            progress("tiles", 3, 3)
        return {"fresh": fresh, "root": str(root)}

    monkeypatch.setattr(terminal.drivers, "run_sample", run_sample)
    assert terminal.sample_with_progress(Path("x"), "test", 7)["fresh"] is fresh
    assert ("3/3" if fresh else "1/1") in capsys.readouterr().err


def test_a_chain_tells_what_happened_to_a_label():
    prompt = {
        "installed_on": date(2021, 5, 4),
        "merged": [("osm/7", 0.75)],
        "repairs": ["self_crossing", "z_dropped"],
        "retired_at": datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    }
    assert terminal._label_notes(prompt) == [
        "installed on 2021-05-04",
        "merged into it: osm/7 (overlap 0.75)",
        "repaired: self_crossing, z_dropped",
        "retired at 2026-03-01 12:30",
    ]
    assert terminal._label_notes({"installed_on": None, "merged": [], "repairs": [], "retired_at": None}) == []
