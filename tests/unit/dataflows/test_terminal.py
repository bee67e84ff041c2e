"""What the command line shows, word for word, whatever the names in it look like."""

import io
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

    def run(name, config, *, retry_errors, since_snapshot, only_stale, fail_fast, progress):
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
