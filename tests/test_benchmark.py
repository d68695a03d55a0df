"""The benchmark: its references do the same work, and its rows are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from benchmarks import __main__ as benchmark
from benchmarks import attention, limits, loaded, train
from benchmarks.limits import matrix_products
from benchmarks.picture import draw_ratios
from benchmarks.plain_spnet import in_plain_form
from benchmarks.rows import as_table, in_turns, mean_ratio, rate_row, time_row
from sceneparse.models import create_segmentation_model
from sceneparse.models.segmentation import SegmentationModel
from tests.test_train_seg import call


def small_spnet() -> SegmentationModel:
    torch.manual_seed(0)
    return create_segmentation_model("strip_pooling", "resnet18", 5, base_width=8, width=16).eval()


def test_plain_spnet_computes_the_same_in_another_way() -> None:
    model, images = small_spnet(), torch.randn(2, 3, 65, 97)
    plain = in_plain_form(model)
    pools = [m for m in plain.modules() if isinstance(m, torch.nn.AdaptiveAvgPool2d)]
    # two strips in each of the blocks of stages 1-3's ends and stage 4, and of the two modules
    assert len(pools) == 2 * (3 + 2) + 2 * 2
    with torch.inference_mode():
        expected, found = (net(images, upsample=False)["out"] for net in (model, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_ratios_are_over_one_where_ours_is_better() -> None:
    faster = time_row("a", ours=[1.0, 2.0, 4.0], reference=[3.0, 4.0, 20.0])
    mean = 30 ** (1 / 3)  # of 3, 2 and 5
    assert (faster.ours, faster.reference, faster.unit) == (2000.0, 4000.0, "ms")
    assert (faster.ratio, faster.turns) == (pytest.approx(mean), 3)
    assert rate_row("b", ours=[6.0], reference=[3.0], unit="/s").ratio == pytest.approx(2.0)


def test_interval_is_that_of_a_mean_of_logarithms() -> None:
    ratios = np.random.default_rng(0).lognormal(size=12)
    found, inverse = mean_ratio(list(ratios)), mean_ratio(list(1 / ratios))
    interval = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.95)
    assert found.value == pytest.approx(stats.gmean(ratios))
    assert found[1:] == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert inverse == pytest.approx((1 / found.value, 1 / found.high, 1 / found.low))


def test_works_take_turns() -> None:
    done: list[str] = []
    seconds = in_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, repeats=2)
    assert done == list("ababab")  # the first turn is not timed
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("name", limits.MATRIX_TYPES)
def test_all_ways_multiply_the_same_matrices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "finish", lambda _, result: result)
    torch.manual_seed(0)
    results = [way() for way in limits._ways_to_multiply(name, 32, torch.device("cpu"))]
    torch.manual_seed(0)
    a, b = (torch.randint(-63, 64, (32, 32)) for _ in range(2))
    # The library that multiplies int8 without instructions for it comes with PyTorch for x86.
    assert len(results) == (2 if torch.backends.mkldnn.is_available() else 1 + (name != "int8"))
    for result in results:
        # A convolution's rows of pixels by its kernels, which are the other matrix transposed.
        convolved = result.dim() == 4
        found, expected = (result[0].flatten(1).T, a @ b.T) if convolved else (result, a @ b)
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-2, atol=64)


def test_operations_become_that_many_products(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(limits, "_MATRIX", 64)
    monkeypatch.setattr(limits, "_ways_to_multiply", lambda *_: [lambda: calls.append(1)])
    work = matrix_products("float32", torch.device("cpu"), operations=5 * 2 * 64**3)
    calls.clear()
    work()
    assert len(calls) == 5


def test_training_steps_are_compared(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "STEPS", 2)
    monkeypatch.setattr(train, "_TURNS", 2)
    small = [setting for setting in tiny if setting.startswith(("augment", "model", "train"))]
    rows = train.measure(lambda recipe, own: benchmark.prepare_recipe(recipe, [*own, *small]))
    assert [(row.name, row.unit) for row in rows] == [
        ("train_step", "ms"),
        ("train_step_mobilenet", "ms"),
        ("train_step_decoding", "ms"),
        ("data_wait_share", "%"),
    ]
    assert all(0 < row.low <= row.ratio <= row.high for row in rows)
    assert 0 < rows[-1].ours < 100


def test_processes_have_no_variables_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    code = "import json, os; print(json.dumps({**os.environ}))"
    with loaded._process(code, [], {"OMP_NUM_THREADS": "3"}) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
    assert {name: found[name] for name in found.keys() & loaded._UNSET} == {"OMP_NUM_THREADS": "3"}


def test_tool_writes_table_rows_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [time_row("up", [1.0], [2.0]), time_row("down", [2.0], [1.0])]
    monkeypatch.setattr(benchmark, "_measurements", lambda _: {"infer": lambda: rows})
    monkeypatch.setattr(limits, "describe_machine", lambda: "a machine")
    files = tmp_path / "rows.json", tmp_path / "rows.png"
    assert call(benchmark, "infer", "--markdown", "--json", files[0], "--picture", files[1]) == 0
    assert "| up | 1000 | 2000 | ms | 2.000x | measured once |" in capsys.readouterr().out
    written = json.loads(files[0].read_text())
    assert [row["name"] for row in written] == ["up", "down"]
    assert {"name", "ours", "reference", "ratio", "unit"} <= set(written[0])
    assert (written[0]["low"], written[0]["high"], written[0]["turns"]) == (None, None, 1)
    assert Image.open(files[1]).size[0] > 500
    assert call(benchmark, "infer", "--json", tmp_path / "no" / "rows.json") == 2
    assert call(benchmark, "infer", "--picture", tmp_path / "rows.odd") == 2


def test_table_and_picture_hold_every_row(tmp_path: Path) -> None:
    rows = [time_row(f"row {k}", [1.0], [k]) for k in (0.5, 1.0, 40.0)]
    assert len(as_table(rows).as_text().splitlines()) == 4
    draw_ratios(rows, tmp_path / "rows.svg")
    text = (tmp_path / "rows.svg").read_text()
    assert text.count("40.00x") == 1


def test_attention_has_a_row_for_every_cost_of_classifiers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = {"peak_bytes": 3 * 2**20, "forward": 10.0, "training": 4.0}
    monkeypatch.setattr(attention, "ATTENTION", {"se": None, "none": None})
    monkeypatch.setattr(attention, "measure_costs", lambda nets, *_: dict.fromkeys(nets, measured))
    rows = {row.name.removeprefix("se_"): row for row in attention.measure()}
    assert list(rows) == ["parameters", "macs", "saved_bytes", *measured]
    parameters = rows["parameters"]
    # Two blocks per stage, each with two layers: to a 16th of the channels and back, with biases.
    blocks = sum(2 * (2 * w * w // 16 + w // 16 + w) for w in (64, 128, 256, 512))
    assert parameters.ours - parameters.reference == pytest.approx(blocks / 1e6)
