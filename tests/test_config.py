"""Configuration: strict, typed, all problems at once."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import load_config, render_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.config.types import Section
from sceneparse.errors import InputError

ROOT = Path(__file__).parents[1]
# Those of sweeps are of another kind, in test_sweep_cls.py.
CONFIGS = sorted(set((ROOT / "configs").glob("*.yaml")) - set((ROOT / "configs").glob("sweep_*")))


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_survives_being_written(path: Path, tmp_path: Path) -> None:
    kind = ClsConfig if path.stem.startswith("cifar") else SegConfig
    config = load_config(path, (), kind)
    assert config.output == f"runs/{path.stem}"
    for explain in (False, True):
        again = write(tmp_path, render_config(config, explain=explain))
        assert load_config(again, (), kind) == config


def test_recipes_of_the_paper() -> None:
    ade = load_config(ROOT / "configs/ade20k_spnet101.yaml", (), SegConfig)
    assert (ade.augment.crop, ade.augment.scale, ade.augment.rotate) == ((480, 480), (0.5, 2.0), 10)
    assert (ade.train.batch_size, ade.train.epochs, ade.optim.lr) == (16, 120, 0.01)
    cityscapes = load_config(ROOT / "configs/cityscapes_spnet101.yaml", (), SegConfig)
    assert (cityscapes.augment.crop, cityscapes.augment.scale) == ((768, 768), (0.5, 1.75))
    assert (cityscapes.train.batch_size, cityscapes.train.epochs) == (8, 180)
    assert (cityscapes.optim.lr, cityscapes.augment.rotate) == (0.005, 1)
    for config in (ade, cityscapes):
        assert (config.augment.blur, config.augment.flip) == (0.5, 0.5)
        assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 1e-4)
        assert (config.optim.head_lr_factor, config.optim.poly_power) == (10, 0.9)
        assert (config.loss.aux_weight, config.model.output_stride) == (0.4, 8)


def test_ablation_differs_in_the_network_alone() -> None:
    full = load_config(ROOT / "configs/ade20k_spnet50.yaml", (), SegConfig)
    rows = {
        "fcn50": ("fcn", "none"),
        "mpm50_short": ("strip_pooling_short", "none"),
        "mpm50_long": ("strip_pooling_long", "none"),
        "mpm50": ("strip_pooling", "none"),
        "spm50": ("fcn", "strip_pooling"),
    }
    for name, (head, attention) in rows.items():
        row = load_config(ROOT / f"configs/ade20k_{name}.yaml", (), SegConfig)
        network = full.model.model_copy(update={"head": head, "attention": attention})
        assert row == full.model_copy(update={"model": network, "output": row.output})


@pytest.mark.fault(2)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {root: on}\noptim: {lr: 1e-3}\ntrain: {amp: off}\n")
    changes = ["optim.weight_decay=1e5", "train.ema=null", "augment.crop=[8, 9]"]
    config = load_config(path, changes, SegConfig)
    assert (config.optim.lr, config.optim.weight_decay) == (0.001, 100000.0)
    assert (config.data.root, config.train.amp, config.train.ema) == ("on", "off", None)
    assert config.augment.crop == (8, 9)
    config = load_config(path, [r"data.root=D:\photos #2"], SegConfig)
    assert config.data.root == "D:/photos #2"


@pytest.mark.fault(1, 5)
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optim.lrr=0.1"], ["the command line: optim.lrr", "did you mean 'lr'"]),
        (["optim.lr=-1"], ["the command line: optim.lr", "greater than", "got -1"]),
        (["data.resize=640"], ["the command line: data.resize", "data.resize.KEY=VALUE", "640"]),
        (["optm.lr=0.1"], ["the command line: optm", "did you mean 'optim'"]),
        (["data.worker=1"], ["the command line: data.worker", "did you mean 'workers'"]),
        (["train.epochs=5.7"], ["train.epochs", "integer", "5.7"]),
        (["train.amp=maybe"], ["train.amp", "bf16", "maybe"]),
        (["augment.crop=[512]"], ["augment.crop"]),
        (["augment.scale=[2.0,0.5]"], ["augment", "smallest"]),
        (["optim.lr=nan"], ["optim.lr", "finite"]),
        (["optim.lr=-1"], ["optim.lr", "greater than 0"]),
        (["train.batch_size=0"], ["train.batch_size", "greater than 0"]),
        (["train.batch_size=6", "train.accumulate=4"], ["train", "multiple"]),
        (["train.epochs=true"], ["train.epochs"]),
        (["train.epochs=010"], ["train.epochs", "integer"]),
        (["train.ema=1"], ["train.ema", "less than 1"]),
        (["data.mean=[123,116,103]"], ["data.mean"]),
        (["seed=99999999999999999999"], ["seed"]),
        (["model.head_options={a: 1}"], ["model", "head 'strip_pooling' has no options"]),
        (["data=3"], ["data", "section"]),
        (["nonsense"], ["nonsense", "section.key=value"]),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, overrides: list[str], expected: list[str]
) -> None:
    path = write(tmp_path, "data: {root: x}\n")
    with pytest.raises(InputError) as caught:
        load_config(path, overrides, SegConfig)
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.fault(5)
def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "optim: {lr: -1, nmae: 2}\ntrain: {epochs: 0, amp: maybe}\n")
    with pytest.raises(InputError, match="5 problems") as caught:
        load_config(path, (), SegConfig)
    for name in ("data", "optim.lr", "optim.nmae", "train.epochs", "train.amp"):
        assert name in str(caught.value)


@pytest.mark.fault(3, 4)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {root: x}\nseed: 1\nseed: 2\n", "line 3: duplicate key 'seed'"),
        ("data:\n  root: x\n  root: y\n", "line 3: duplicate key 'root'"),
        ("data: {root: !!python/object/apply:os.mkdir [owned]}", "python/object"),
        ("data: [1", "expected"),
        ("- 1\n- 2\n", "expected sections"),
        ("[1, 2]: 3\n", "a key must be plain text"),
        ("\x00", "not YAML"),
        ("a: &a [1]\nb: *a\n", "line 2: references"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", "line 3: references"),
        ("[" * 50_000, "nested too deeply"),
        ("{a: " * 20_000, "nested too deeply"),
        ("data: {root: " + "x" * 200_000 + "}", "larger than 100,000"),
        ("seed: " + "9" * 5000, "not YAML"),
        ("data: {root: !!python/name:os.system }", "python/name"),
        ("data: {root: x}\nseed: !!timestamp 2020-01-01", "seed: input should be a valid integer"),
    ],
)
def test_unusable_yaml_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        load_config(write(tmp_path, text), (), SegConfig)
    assert not Path("owned").exists()


def test_what_was_given_is_not_shown_whole(tmp_path: Path) -> None:
    text = (
        "data: {root: x}\nseed: ["
        + "7, " * 30_000
        + "7]\nmodel: {head: {a: "
        + "b" * 30_000
        + "}}\n"
    )
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path, text), ["optim.lr=\x1b[2J"], SegConfig)
    assert len(str(caught.value)) < 2000
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


@pytest.mark.parametrize("key", ["data.workers", "train.epochs", "train.batch_size", "model.width"])
def test_numbers_have_an_end(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, "data: {root: x}\n")
    with pytest.raises(InputError, match=f"{key}: input should be less"):
        load_config(path, [f"{key}=99999999999"], SegConfig)


def test_seeds_have_an_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 1000 seeds"):
        load_config(write(tmp_path, "seeds: 0-999999999999"), (), ClsConfig)


def test_section_with_all_keys_commented_out_has_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "data: {root: x}\noptim:\n#  lr: 3\n"), (), SegConfig)
    assert config.optim.lr == 0.01


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_config("nowhere.yaml", (), SegConfig)


# Settings that take the names of a table, and where the table is.
NAMED = [
    (SegConfig, "data.dataset", "sceneparse.data.datasets.DATASETS"),
    (SegConfig, "data.sampling", "sceneparse.data.sampling.SAMPLING"),
    (SegConfig, "data.cache", "sceneparse.data.cache.CACHES"),
    (SegConfig, "model.head", "sceneparse.models.heads.HEADS"),
    (SegConfig, "model.attention", "sceneparse.layers.attention.ATTENTION"),
    (SegConfig, "model.norm", "sceneparse.layers.norms.NORMS"),
    (SegConfig, "loss.terms", "sceneparse.losses.LOSSES"),
    (SegConfig, "loss.class_weights", "sceneparse.data.balance.CLASS_WEIGHTS"),
    (SegConfig, "eval.protocol", "sceneparse.inference.protocols.PROTOCOLS"),
    (SegConfig, "eval.weighting", "sceneparse.inference.windows.WEIGHTINGS"),
    (ClsConfig, "data.dataset", "sceneparse.data.image_folders.IMAGE_DATASETS"),
    (ClsConfig, "attention", "sceneparse.layers.attention.ATTENTION"),
]


@pytest.mark.fault(6)
@pytest.mark.parametrize(("kind", "key", "table_path"), NAMED)
def test_a_new_entry_of_a_table_is_allowed_at_once(
    kind: type[Section], key: str, table_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = table_path.rpartition(".")
    path = write(tmp_path, "data: {root: x}\n")
    change = f"{key}={{brand_new: 1.0}}" if key == "loss.terms" else f"{key}=brand_new"
    table = getattr(importlib.import_module(module), name)
    with pytest.raises(InputError) as caught:
        load_config(path, [change], kind)
    assert f"{key}: unknown " in str(caught.value)
    assert "'brand_new'; choose one of: " in str(caught.value)
    assert sorted(table)[-1] in str(caught.value)
    assert "\n" not in str(caught.value)
    added = {**table, "brand_new": None} if isinstance(table, dict) else (*table, "brand_new")
    monkeypatch.setattr(table_path, added)
    assert "brand_new" in str(load_config(path, [change], kind))


def test_configuration_is_read_without_torch(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {root: x}\n")
    code = (
        "import sys; from sceneparse.config.loading import load_config; "
        "from sceneparse.config.segmentation import SegConfig; "
        "from sceneparse.config.classification import ClsConfig; "
        f"load_config({str(path)!r}, [], SegConfig); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "cv2"} & set(done.stdout.split()) == set()


def test_home_is_expanded_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = write(tmp_path, "data: {root: ~/mine}\nmodel: {pretrained: ~/weights.pth}\n")
    config = load_config(path, ["output=~/runs/a"], SegConfig)
    assert config.output == "/home/me/runs/a"
    assert (config.data.root, config.model.pretrained) == ("/home/me/mine", "/home/me/weights.pth")
    (tmp_path / "again.yaml").write_text(render_config(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml", [], SegConfig) == config
    cls = load_config(write(tmp_path, "data: {root: ~/mine}\noutput: ~/a~b\n"), [], ClsConfig)
    assert (cls.data.root, cls.output) == ("/home/me/mine", "/home/me/a~b")
