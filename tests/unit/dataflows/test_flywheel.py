"""The flywheel's engine on stages that do nothing: order, receipts, models handed on, and going on after a kill."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from dataflows import flywheel
from dataflows.config import BuildConfig
from dataflows.discovery_config import DiscoveryConfig
from dataflows.flywheel import CLOSING, EACH, FIRST, StageReceipt, run_flywheel
from dataflows.flywheel_plot import ledger_picture
from dataflows.flywheel_terminal import ledger_table, print_ledger
from store.ducklake_labels import LabelTable
from store.rounds import read_rounds
from utils.errors import ConfigError, SearchError, StoreConflictError


def settings(tmp_path, **changes):
    build = BuildConfig(
        labels=(LabelTable(table="pv", id="id", geometry="geometry"),),
        catalog=str(tmp_path / "none.ducklake"),
        vhr={"source": "local", "root": str(tmp_path / "vhr")},
        store=str(tmp_path / "store"),
    )
    return DiscoveryConfig(build=build, out=str(tmp_path / "out"), **changes)


class Stages(dict):
    """Stages that note what they were called with; those of ``promoted`` rounds promote."""

    def __init__(self, promoted=(1, 2, 3)):
        self.calls, self.promoted, self.broken = [], promoted, {}
        super().__init__({name: self.stage(name) for name in {*FIRST, *EACH}})

    def stage(self, name):
        def run(context):
            self.calls.append((context.number, name, context.config.model))
            if (context.number, name) in self.broken:
                raise self.broken.pop((context.number, name))
            return self.receipt(name, context)

        return run

    def receipt(self, name, context):
        number = context.number
        values = {
            "gold": {"split_rule": "r"},
            "fit": {"checkpoint": "m0.ckpt", "table_version": 1},
            "discover": {"search_id": f"s{number}"},
            "backfill": {"generation": number},
            "candidate": {"checkpoint": f"m{number}.ckpt"},
            "gate": {"promoted": number in self.promoted, "tag": None, "table_version": 0}
            | ({"tag": f"t{number}", "table_version": 10 + number} if number in self.promoted else {}),
        }.get(name, {})
        metrics = {"recall_before": 0.5 + number / 10, "recall_after": 0.4 + number / 10} if name == "measure" else {}
        if name == "gate":
            metrics = {"model_iou": 0.3, "candidate_iou": 0.3 + number / 10}
        counts = {"detections": 100 + number} if name == "discover" else {}
        return StageReceipt(values=values, counts=counts, metrics=metrics, bytes_written=7)


def turned(tmp_path, stages, rounds=2, **asked):
    return run_flywheel(settings(tmp_path), rounds=rounds, stages=stages, **asked)


def test_rounds_run_in_order_and_hand_the_model_on(tmp_path):
    stages = Stages(promoted=(2,))
    told = []
    summary = turned(tmp_path, stages, progress=lambda s: told.append((s.round, s.stage)))
    assert summary.exit_code == 0
    assert [(n, name) for n, name, _ in stages.calls] == [
        *((0, name) for name in FIRST), *((n, name) for n in (1, 2) for name in EACH), *((3, name) for name in CLOSING)
    ]  # fmt: skip
    assert told[0] == (0, "build")
    # round 1 was refused, so that round 2 searches with the first model; round 2 was promoted
    models = {number: model for number, name, model in stages.calls if name == "discover"}
    assert models == {1: "m0.ckpt", 2: "m0.ckpt", 3: "m2.ckpt"}
    rows = read_rounds(tmp_path / "store")
    assert [row.status for row in rows] == ["done", "refused", "done", "running"]
    assert [(row.model, row.table_version) for row in rows] == [("m0.ckpt", 1)] * 3 + [("m2.ckpt", 12)]
    assert [(row.generation, row.promoted, row.tag) for row in rows] == [
        (None, None, None), (1, False, None), (2, True, "t2"), (None, None, None)
    ]  # fmt: skip
    assert rows[1].counts == {"detections": 101}
    assert rows[1].metrics["recall_before"] == pytest.approx(0.6)
    # the last model was measured as the candidate of round 2
    assert [row.metrics.get("model_iou") for row in rows] == [None, 0.3, 0.3, 0.5]
    assert rows[1].bytes == dict.fromkeys(EACH, 7)
    assert set(rows[1].seconds) == set(EACH)


def test_a_second_run_does_nothing_and_more_rounds_go_on(tmp_path):
    turned(tmp_path, Stages(), rounds=1)
    again = Stages()
    summary = turned(tmp_path, again, rounds=1)
    assert again.calls == []
    assert summary.stages_skipped == len(FIRST) + len(EACH) + len(CLOSING)
    further = Stages()
    turned(tmp_path, further, rounds=2)
    # what the closing search of round 2 found is not searched again
    assert [(n, name) for n, name, _ in further.calls] == [
        *((2, name) for name in EACH[len(CLOSING) :]), *((3, name) for name in CLOSING)
    ]  # fmt: skip


def test_a_stage_that_is_refused_ends_the_run_and_is_tried_again(tmp_path):
    stages = Stages()
    stages.broken[1, "backfill"] = SearchError("not today")
    with pytest.raises(SearchError, match="not today"):
        turned(tmp_path, stages)
    assert set(read_rounds(tmp_path / "store")[1].stages) == set(CLOSING)
    calls = len(stages.calls)
    assert turned(tmp_path, stages).status == "done"
    assert stages.calls[calls][:2] == (1, "backfill")


def test_an_interrupt_is_told_and_the_rest_is_done_later(tmp_path):
    stages = Stages()
    stages.broken[1, "validate"] = KeyboardInterrupt()
    summary = turned(tmp_path, stages)
    assert (summary.status, summary.exit_code) == ("interrupted", 130)
    assert turned(tmp_path, stages).exit_code == 0
    assert len(stages.calls) == len(FIRST) + 2 * len(EACH) + len(CLOSING) + 1


def test_other_settings_are_another_flywheel(tmp_path):
    turned(tmp_path, Stages(), rounds=0, measure_last=False)
    other = Stages()
    run_flywheel(settings(tmp_path, tta=True), rounds=0, stages=other, measure_last=False)
    assert [name for _, name, _ in other.calls] == list(FIRST)
    # the ledger shows the one that changed last
    assert len(read_rounds(tmp_path / "store")) == 1


def test_a_model_of_the_settings_is_started_from(tmp_path):
    stages = Stages()
    with pytest.raises(ConfigError, match="no model to start from"):
        turned(tmp_path, stages, from_model=True)
    with pytest.raises(ConfigError, match="no file"):
        run_flywheel(settings(tmp_path, model="package:Class"), rounds=0, stages=stages, from_model=True)
    mine = tmp_path / "mine.ckpt"
    mine.touch()
    run_flywheel(settings(tmp_path, model=str(mine)), rounds=0, stages=stages, from_model=True)
    assert {model for number, name, model in stages.calls if name in ("build", "gold", "fit")} == {str(mine)}


def test_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="from 0 on"):
        turned(tmp_path, Stages(), rounds=-1)


def test_two_at_once_are_one_and_an_error(tmp_path):
    stages = Stages()

    def second(context):
        with pytest.raises(StoreConflictError, match="another run"):
            turned(tmp_path, Stages())
        return stages.receipt("build", context)

    stages["build"] = second
    assert turned(tmp_path, stages, rounds=0, measure_last=False).status == "done"


def test_a_killed_run_goes_on_with_the_stage_under_way(tmp_path):
    code = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_flywheel import Stages, turned
        stages = Stages()
        def killed(context):
            os.kill(os.getpid(), signal.SIGKILL)
        stages["gate"] = killed
        turned(Path({str(tmp_path)!r}), stages)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    stages = Stages()
    assert turned(tmp_path, stages).status == "done"
    assert stages.calls[0][:2] == (1, "gate")


class TestLedger:
    """What is shown of it."""

    @pytest.fixture
    def rounds(self, tmp_path):
        return turned(tmp_path, Stages(promoted=(1,))).ledger

    def test_as_a_table(self, rounds, capsys):
        print_ledger(rounds)
        text = capsys.readouterr().out
        assert "round 3" in text
        found = [line.split("│")[1:-1] for line in text.splitlines() if "recall, accepted" in line]
        assert [cell.strip() for cell in found[0]] == ["recall, accepted", "", "0.500", "0.600", "0.700"]
        promoted = [line.split("│")[1:-1] for line in text.splitlines() if "promoted" in line]
        assert [cell.strip() for cell in promoted[0]] == ["promoted", "", "yes", "no", ""]

    def test_of_no_round(self):
        assert ledger_table([]).row_count > 0

    def test_as_a_picture(self, rounds, tmp_path):
        path = ledger_picture(rounds, tmp_path / "pictures" / "ledger.png")
        with Image.open(path) as picture:
            assert picture.width > picture.height > 200
            assert len(picture.getcolors(1 << 20)) > 50

    @pytest.mark.parametrize("place", ["ledger.pdf", "file/ledger.png"])
    def test_a_picture_that_cannot_be(self, rounds, tmp_path, place):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=r"png|written"):
            ledger_picture(rounds, tmp_path / place)

    def test_no_picture_of_nothing(self, tmp_path):
        with pytest.raises(ConfigError, match="no round"):
            ledger_picture([], tmp_path / "ledger.png")


def test_every_stage_has_its_function():
    from dataflows.flywheel_stages import STAGES

    assert set(STAGES) == {*FIRST, *EACH}
    assert set(CLOSING) == set(EACH[: len(CLOSING)])
    assert flywheel.EACH[: len(CLOSING)] == CLOSING
