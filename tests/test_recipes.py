"""The recipes that come with the package: found by name, listed, copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from sceneparse.cli.main import main
from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config, list_recipes, recipe_paths
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError
from tests.commands import check_commands, commands_in
from tests.conftest import ROOT


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_every_recipe_is_listed_and_copied(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    listed = printed(capsys, "recipes").splitlines()
    assert len(listed) == len(files) == len(list_recipes())
    for line, recipe in zip(listed, list_recipes(), strict=True):
        assert line.split()[0] == recipe.name
        assert line.endswith(recipe.expected)
        path = recipe_paths()[recipe.name]
        assert path == ROOT / f"configs/{recipe.name}.yaml"
        assert printed(capsys, "recipes", recipe.name) == path.read_text(encoding="utf-8")


def test_recipe_for_own_data_is_what_the_doctor_names(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = str(tmp_path / "report")
    lines = printed(capsys, "check", str(scenes), "--allow-twins", "--output", report)
    train = commands_in(lines)["train"]
    assert train == [["--config", "own_data", f"data.root={scenes}", f"output=runs/{scenes.name}"]]
    check_commands({"train": train})
    config = load_config(find_config("own_data"), (), SegConfig)
    assert (config.data.dataset, config.loss.class_weights) == ("folder", "auto")
    assert (config.model.pretrained, config.model.backbone) == ("imagenet", "mobilenetv2_100")
    # crops whose features lie on pixels
    assert all((side - 1) % config.model.output_stride == 0 for side in config.augment.crop)


def test_a_file_comes_before_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart") == ROOT / "configs/quickstart.yaml"
    (tmp_path / "quickstart").write_text("seed: 1")
    assert find_config("quickstart") == Path("quickstart")
    assert find_config("mine.yaml") == Path("mine.yaml")
    assert find_config("camvid_half.yaml", ROOT / "configs/study").is_file()


@pytest.mark.parametrize(
    ("given", "named"),
    [("camvid_mobilnet", "camvid_mobilenet"), ("ade20k_spnet_50", "ade20k_spnet50")],
)
def test_a_misspelt_recipe_names_the_nearest(given: str, named: str) -> None:
    with pytest.raises(InputError, match=f"no recipe '{given}'; the nearest recipes: .*{named}"):
        find_config(given)


def test_an_unlike_name_is_told_where_recipes_are_listed() -> None:
    with pytest.raises(InputError, match=r"no recipe 'zzzzqqqq'; `sceneparse recipes` lists them$"):
        find_config("zzzzqqqq")
