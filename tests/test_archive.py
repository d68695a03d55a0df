"""Archives made to do harm: nothing is written outside, and little does not become much."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10

from sceneparse.data.archive import unpack
from sceneparse.data.image_folders import load_classes
from sceneparse.errors import InputError

pytestmark = pytest.mark.usefixtures("nothing_outside")


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=kind, linkname=target)


HARMFUL: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "up": [member("../empty/owned")],
    "far up": [member("a/../../../../../empty/owned")],
    "link": [link("a", "../empty")],
    "link and through it": [link("a", "../empty"), member("a/owned")],
    "hard link": [link("a", "/etc/passwd", tarfile.LNKTYPE)],
    "device": [member("a", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "pipe": [member("a", b"", type=tarfile.FIFOTYPE)],
    "zeros": [member("a", bytes(30_000_000))],
    "many zeros": [member(f"a{i}", bytes(300_000)) for i in range(100)],
    "long header": [member("a", pax_headers={"comment": "x" * 30_000_000})],
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_archive_is_refused(name: str, tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar.gz", member("good"), *HARMFUL[name])
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match=r"x\.tar\.gz: cannot be unpacked: "):
        unpack(archive, tmp_path / "here")
    written = [path for path in (tmp_path / "here").rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in written)
    assert sum(path.stat().st_size for path in written) < 2**21


def test_absolute_names_stay_inside(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar.gz", member(f"{tmp_path}/empty/owned"))
    unpack(archive, tmp_path / "here")
    (written,) = [path for path in (tmp_path / "here").rglob("*") if path.is_file()]
    assert written.is_relative_to(tmp_path / "here")


def test_rights_are_taken_off(tmp_path: Path) -> None:
    unpack(write(tmp_path / "x.tar.gz", member("a/b", mode=0o6777)), tmp_path / "here")
    assert (tmp_path / "here/a/b").read_bytes() == b"x"
    assert (tmp_path / "here/a/b").stat().st_mode & 0o7022 == 0


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"<html>404</html>",
    "cut": lambda whole: whole[: len(whole) // 2],
    "tar alone": gzip.decompress,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archive_is_named(name: str, tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar.gz", member("a", bytes(range(256)) * 40))
    archive.write_bytes(BROKEN[name](archive.read_bytes()))
    with pytest.raises(InputError, match=r"x\.tar\.gz: cannot be unpacked: "):
        unpack(archive, tmp_path / "here")


def test_an_archive_with_another_checksum_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can put an archive where the download goes gets it opened only if it is the one."""

    def no_network(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    root = tmp_path / "data"
    root.mkdir()
    write(root / CIFAR10.filename, member("cifar-10-batches-py/data_batch_1"), link("a", "/"))
    with pytest.raises(InputError, match="could not be downloaded"):
        load_classes("cifar10", root, "train")
    assert [path.name for path in root.iterdir()] == [CIFAR10.filename]
