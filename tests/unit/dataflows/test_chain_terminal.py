"""Chains and comparisons in the terminal, word for word, whatever the names in them look like."""

import io
from datetime import UTC, date, datetime

import pytest
from rich.console import Console

from dataflows import chain_terminal
from store.chain_differences import Comparison, Difference


@pytest.fixture
def shown(monkeypatch):
    """Everything printed, as plain text on a wide terminal."""
    text = io.StringIO()
    monkeypatch.setattr(chain_terminal, "Console", lambda **options: Console(**options | {"file": text, "width": 400}))
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
        "scenes": [{"scene_id": scene, "sensor": "plane", "acquired_at": when, "source": "local", "checksum": "c1"}],
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
    chain_terminal.print_chain(chain())
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
    chain_terminal.print_chain(chain(run=False))
    assert "has no row in `runs` any more" in shown.getvalue()


@pytest.mark.parametrize("name", ["roof [old]", "[/red]", "[bold]x", "a\\[b]", ":smile:", "[link=x]y"])
def test_names_are_shown_as_they_are(shown, name):
    chain_terminal.print_chain(chain(label=f"pv/{name}", scene=name, store=name))
    assert f"box pv/{name} from pv at snapshot 6 of {name}" in shown.getvalue()
    assert f"{name}, plane" in shown.getvalue()


def test_a_chain_tells_what_happened_to_a_label():
    prompt = {
        "installed_on": date(2021, 5, 4),
        "merged": [("osm/7", 0.75)],
        "repairs": ["self_crossing", "z_dropped"],
        "retired_at": datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    }
    assert chain_terminal._label_notes(prompt) == [
        "installed on 2021-05-04",
        "merged into it: osm/7 (overlap 0.75)",
        "repaired: self_crossing, z_dropped",
        "retired at 2026-03-01 12:30",
    ]
    assert chain_terminal._label_notes({"installed_on": None, "merged": [], "repairs": [], "retired_at": None}) == []


def comparison(*differences, differ=0, unknown=()):
    one = chain()
    return Comparison(
        first=one, second=one, pixels_differ=differ, pixels=100, differences=list(differences), unknown=unknown
    )


def test_a_comparison_says_first_whether_pixels_are_equal(shown):
    chain_terminal.print_comparison(comparison())
    assert [line.partition(" ")[0] for line in shown.getvalue().splitlines()] == [
        "first", "second", "pixels:", "nothing",
    ]  # fmt: skip
    assert "all 100 are equal" in shown.getvalue()


def test_a_comparison_lists_causes_by_kind_and_what_is_not_known(shown):
    many = [Difference(what="code", name=f"mask: m.f{k}", first="one", second="another") for k in range(20)]
    setting = Difference(what="settings", name="thresholds", first={"accept": 0.5}, second={"accept": 0.9})
    gone = Difference(what="labels", name="pv/[1]", first={"kind": "box"}, second=None)
    chain_terminal.print_comparison(comparison(gone, setting, *many, differ=7, unknown=["weights: no record"]))
    text = shown.getvalue()
    for words in (
        "pixels: 7 of 100 differ (7.0%)",
        "pv/[1]: only behind the first",
        "thresholds: accept 0.5 → 0.9",
        "mask: m.f11: changed",
        "… and 8 more",
        "not known: weights: no record",
    ):
        assert words in text
    assert "nothing recorded differs" not in text


def test_masks_on_other_grids_are_not_compared(shown):
    chain_terminal.print_comparison(comparison(differ=None))
    assert "on different grids" in shown.getvalue()
