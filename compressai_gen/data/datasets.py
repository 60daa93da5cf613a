"""Datasets by name: a small definition of each stands in ``eval/datasets/``, its pictures are found or downloaded.

A name always means the same pictures: every file is compared with the SHA-256 of the definition wherever it was found.
Definitions that cannot name files and hashes state the number of pictures, which is compared, and are not downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from compressai_gen.data.images import is_output, list_images, read_image
from compressai_gen.errors import DatasetError, ImageError
from compressai_gen.files import one_name, printable
from compressai_gen.resources import EVAL_DIR, cache_dir, is_offline

__all__ = ["DATA_ROOT_VARIABLE", "ImageDataset", "known_datasets", "load_dataset"]

DATA_ROOT_VARIABLE = "COMPRESSAI_GEN_DATA"


@dataclass(frozen=True)
class ImageDataset:
    """Names and files of a set of pictures; a picture is read when it is asked for and not kept.

    Attributes:
        name: of the definition, or the folder's name.
        paths: one file per picture.
        image_names: a stable name per picture, unique in the set: the path below the folder, without suffix.
        definition: the contents of ``eval/datasets/<name>.json``; empty for a folder.
        count: pictures of the whole set, of which ``limit`` may have left fewer.
    """

    name: str
    paths: tuple[Path, ...]
    image_names: tuple[str, ...]
    count: int
    definition: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return picture `index` as a uint8 tensor of shape (3, H, W)."""
        return read_image(self.paths[index])

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and picture, one after the other."""
        return self.each()

    def each(self, on_unreadable: Callable[[str, ImageError], None] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield name and picture, one after the other; a function may take those that cannot be read.

        Raises:
            ImageError: a picture cannot be read, and no function is given.
        """
        for name, path in zip(self.image_names, self.paths, strict=True):
            try:
                image = read_image(path)
            except ImageError as error:
                if on_unreadable is None:
                    raise
                on_unreadable(name, error)
                continue
            yield name, image
            del image

    def without(self, names: Container[str]) -> ImageDataset:
        """Return the pictures that have other names."""
        return self.part(index for index, name in enumerate(self.image_names) if name not in names)

    def part(self, indices: Iterable[int]) -> ImageDataset:
        """Return some of the pictures, in the order of `indices`."""
        indices = list(indices)
        paths, names = (tuple(values[index] for index in indices) for values in (self.paths, self.image_names))
        return replace(self, paths=paths, image_names=names)

    def called(self, names: Iterable[str]) -> ImageDataset:
        """Return the pictures of these names, in their order.

        Raises:
            DatasetError: it has none of such a name.
        """
        names = list(names)
        unknown = [name for name in names if name not in self.image_names]
        if unknown:
            raise DatasetError(f"{self.name} has no image {', '.join(unknown)}; it has {', '.join(self.image_names)}")
        return self.part(self.image_names.index(name) for name in names)

    @property
    def is_whole(self) -> bool:
        """Whether no picture was left out, so that published figures of the set are comparable."""
        return len(self) == self.count


def known_datasets() -> list[str]:
    """Names of the datasets that have a definition."""
    return sorted(path.stem for path in (EVAL_DIR / "datasets").glob("*.json"))


def load_dataset(
    name_or_folder: str | Path,
    data_root: str | Path | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> ImageDataset:
    """Find a dataset, and download it if it is found nowhere.

    A known name is looked for in ``<data_root>/<name>``, then in the cache (``$XDG_CACHE_HOME/compressai-gen/<name>``,
    by default below ``~/.cache``), and otherwise downloaded to the cache, if the definition has files and their hashes.
    Anything else is a folder, searched recursively, or the name of a folder in ``data_root``.

    Args:
        name_or_folder: a known name, or a folder of images.
        data_root: folder of datasets; default is the environment variable ``COMPRESSAI_GEN_DATA``.
        limit: use only the first `limit` pictures.
        progress: show a progress bar while downloading.

    Raises:
        DatasetError: the name is unknown, the folder is missing or empty, a file or the number of files is not what
            the definition says, the download failed, or the dataset has to be fetched by hand.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"limit is {limit}; at least one picture is needed")
    root = data_root or os.environ.get(DATA_ROOT_VARIABLE) or None
    root = _expanded(root) if root else None
    if data_root and not root.is_dir():
        raise DatasetError(f"the data root {root} is not a folder")
    if str(name_or_folder) in known_datasets():
        return _load_defined(str(name_or_folder), root, limit, progress)
    return _load_folder(_find_folder(name_or_folder, root), limit)


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # a user without a home
        raise DatasetError(f"{path} cannot be found: {error}") from error


def _load_defined(name: str, root: Path | None, limit: int | None, progress: bool) -> ImageDataset:
    definition = json.loads((EVAL_DIR / "datasets" / f"{name}.json").read_text(encoding="utf-8"))
    if "files" not in definition:
        return _load_counted(definition, root, limit)
    files = definition["files"][:limit]
    folder = _locate(definition, files, root)
    if folder is None:
        folder = cache_dir() / name
        _download(name, [file for file in files if not (folder / file["name"]).is_file()], folder, progress)
    for file in files:
        _check_hash(name, folder / file["name"], file["sha256"])
    paths = tuple(folder / file["name"] for file in files)
    return ImageDataset(name, paths, _image_names(folder, paths), definition["count"], definition)


def _load_counted(definition: dict[str, Any], root: Path | None, limit: int | None) -> ImageDataset:
    name, count = definition["name"], definition["count"]
    for folder in _own_folders(name, root):
        if folder.is_dir():
            dataset = _load_folder(folder, limit)
            if dataset.count != count:
                raise DatasetError(
                    f"{folder} holds {dataset.count} images, but dataset {name} has {count}: {definition['pictures']}; "
                    f"to evaluate other images, name their folder by its path"
                )
            _check_sizes(definition, dataset)
            return replace(dataset, name=name, definition=definition)
    raise DatasetError(
        f"dataset {name} is not here, and is not downloaded, as the hashes of its files are not known. Fetch "
        f"{' and '.join(definition['archives'])}, put {definition['pictures']} into <root>/{name}/ and pass that root "
        f"(--data-root or {DATA_ROOT_VARIABLE}), or put them into {cache_dir() / name}"
    )


def _check_sizes(definition: dict[str, Any], dataset: ImageDataset) -> None:
    """Refuse pictures that were cut or scaled otherwise than those of the definition, where it states their sizes."""
    for path in dataset.paths if "sizes" in definition else ():
        try:
            with Image.open(path) as picture:
                size = f"{picture.width}x{picture.height}"
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        if size not in definition["sizes"]:
            sizes = " or ".join(definition["sizes"])
            raise DatasetError(
                f"{path} has {size} pixels, but dataset {definition['name']} has {sizes}: {definition['pictures']}; "
                f"to evaluate other images, name their folder by its path"
            )


def _own_folders(name: str, root: Path | None) -> list[Path]:
    """Return the folders that may hold a known dataset, the first to look into first."""
    return [*([root / name] if root else []), cache_dir() / name]


def _locate(definition: dict[str, Any], files: list[dict[str, str]], root: Path | None) -> Path | None:
    """Return the first folder that has all files, or None."""
    folders = _own_folders(definition["name"], root)
    if package := definition.get("package"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DatasetError(f"dataset {definition['name']} is part of the package {package}; install it with pip")
        folders.append(Path(spec.submodule_search_locations[0]) / definition["folder"])
    for folder in folders:
        if all((folder / file["name"]).is_file() for file in files):
            return folder
    return None


def _download(name: str, files: list[dict[str, str]], folder: Path, progress: bool) -> None:
    for file in tqdm(files, desc=f"downloading {name}", unit="image", disable=not progress):
        if "url" not in file:
            raise DatasetError(f"dataset {name}: {file['name']} is not where its package should carry it; reinstall it")
        try:
            if is_offline():
                raise ConnectionError("nothing is fetched offline")
            folder.mkdir(parents=True, exist_ok=True)
            # Writes to a temporary file, compares the hash, and renames only then.
            torch.hub.download_url_to_file(file["url"], str(folder / file["name"]), file["sha256"], progress=False)
        except RuntimeError as error:
            raise DatasetError(f"{file['url']} is not the file that dataset {name} is made of: {error}") from error
        except OSError as error:
            raise DatasetError(
                f"dataset {name} is not here and {file['url']} cannot be fetched ({error}). Either put its files into "
                f"<root>/{name}/ and pass that root (--data-root or {DATA_ROOT_VARIABLE}), or run once with a network, "
                f"which keeps them in {folder}, or name a folder of your own images (or the built-in 'samples')"
            ) from error


def _check_hash(name: str, path: Path, sha256: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DatasetError(
            f"{path} is not the file that dataset {name} is made of (SHA-256 {found}, not {sha256}); "
            f"remove it to have it downloaded, or evaluate the folder by its path"
        )


def _find_folder(name_or_folder: str | Path, root: Path | None) -> Path:
    folder = _expanded(name_or_folder)
    if folder.is_dir():
        return folder
    if root and (root / name_or_folder).is_dir():
        return root / name_or_folder
    raise DatasetError(
        f"'{name_or_folder}' is neither a folder nor a known dataset; known datasets: {', '.join(known_datasets())}"
    )


def _load_folder(folder: Path, limit: int | None) -> ImageDataset:
    found = list_images(folder)
    paths = [path for path in found if not is_output(path)]
    if found and not paths:
        raise DatasetError(
            f"the folder {folder} holds only images that an evaluation wrote: name that of the originals"
        )
    if not paths:
        raise DatasetError(f"the folder {folder} holds no images; known datasets: {', '.join(known_datasets())}")
    names = _image_names(folder, paths)[:limit]
    return ImageDataset(printable(folder.resolve().name), tuple(paths[:limit]), names, len(paths))


def _image_names(folder: Path, paths: tuple[Path, ...] | list[Path]) -> tuple[str, ...]:
    """Paths below the folder without suffix; pictures that differ in nothing else keep it.

    What differs only in case counts as the same, as reconstructions may be written where it is.
    """
    whole = [printable(path.relative_to(folder).as_posix()) for path in paths]
    names = [printable(path.relative_to(folder).with_suffix("").as_posix()) for path in paths]
    while shared := [name for name, count in Counter(map(one_name, names)).items() if count > 1]:
        longer = [full if one_name(name) in shared else name for name, full in zip(names, whole, strict=True)]
        if longer == names:  # a file system that tells a.png from A.png
            break
        names = longer
    return tuple(names)
