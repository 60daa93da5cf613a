"""Models in a folder or on the Hugging Face Hub: ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

A folder holds ``coding.safetensors`` and ``networks.safetensors``, the two roles of :mod:`compressai_gen.roles`,
``config.json`` with the model's name, configuration and both hashes, and a card, ``README.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import huggingface_hub
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load, save

from compressai_gen._version import __version__
from compressai_gen.errors import ZooError
from compressai_gen.files import replacing
from compressai_gen.roles import ROLES, split

__all__ = ["SharedModel"]

CONFIG, CARD = "config.json", "README.md"

M = TypeVar("M", bound="SharedModel")


class SharedModel(ModelHubMixin):
    """What a model needs to be saved to and loaded from folders and the hub; mixed into codecs."""

    name: str
    config: Mapping[str, Any]
    coding: ClassVar[tuple[str, ...]]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write both files of weights and ``config.json``; ``save_pretrained`` adds the card where there is none."""
        described = {"model": self.name, "config": self.config, "quality": float(self.quality), "sha256": {}}
        described |= {"fingerprint": self.fingerprint(), "compressai_gen": __version__}
        for role, tensors in split(self.state_dict(), self.coding).items():
            data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            described["sha256"][role] = hashlib.sha256(data).hexdigest()
            with replacing(save_directory / _file_of(role)) as temporary:
                temporary.write_bytes(data)
        with replacing(save_directory / CONFIG) as temporary:
            temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **config: Any,
    ) -> M:
        """Load a model that ``save_pretrained`` or ``push_to_hub`` wrote.

        Args:
            pretrained_model_name_or_path: a folder, or a repository of the hub, ``owner/name``.
            revision: commit, tag or branch of the repository; the newest of its main branch by default.
            token: for a private repository; see ``huggingface_hub``.
            cache_dir: of ``huggingface_hub``.
            local_files_only: take what the cache has, and ask nobody.
            force_download: download again what the cache has.
            **config: of the class, in place of the saved configuration.

        Returns:
            The model, in evaluation mode.

        Raises:
            ZooError: the folder or repository cannot be had, holds something else, or is damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            options = {"token": token, "cache_dir": cache_dir, "force_download": force_download}
            folder = _download(
                str(pretrained_model_name_or_path), revision, local_files_only=local_files_only, **options
            )
        described = _described(folder)
        if described["model"] != cls.name:
            raise ZooError(f"{folder} holds {described['model']!r}, not {cls.name!r}: load it by that model's class")
        state: dict[str, Any] = {}
        for role in ROLES:
            state |= _read(folder / _file_of(role), described["sha256"][role])
        model = cls(**{**described["config"], **config})
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ZooError(f"the weights in {folder} do not fit its configuration: {error}") from error
        return model.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card that ``save_pretrained`` writes where the folder has none."""
        data = ModelCardData(library_name="compressai-gen", tags=["image-compression", self.name])
        millions = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        summary = (type(self).__doc__ or "").strip().partition("\n")[0]
        return ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n# {self.name}\n\n{summary} {millions:.1f} million parameters.\n\n"
            f"- coding part: `{self.fingerprint()}`, which `.cgen` files name\n"
            f"- made with compressai-gen {__version__}\n\n"
            f"```python\nfrom compressai_gen.models import {type(self).__name__}\n\n"
            f'model = {type(self).__name__}.from_pretrained("owner/name", revision="commit")\n```\n\n'
            "## Training\n\nSay here what the weights were trained on and what for, and under which licence they are.\n"
        )


def _file_of(role: str) -> str:
    return f"{role}.safetensors"


def _download(repository: str, revision: str | None, **options: Any) -> Path:
    """Return the folder of a repository's files in the hub's cache."""
    files = [CONFIG, *map(_file_of, ROLES)]
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=files, **options))
    # The hub's client raises errors of several kinds, its own and those of its transport.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hub = huggingface_hub.constants.ENDPOINT
        raise ZooError(
            f"{repository} is no folder, and cannot be had from {hub} ({reason}): check the name and the network, or "
            "give a folder that save_pretrained wrote"
        ) from error


def _described(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"{folder} holds no model of ours: {CONFIG} is missing or no JSON ({error})") from error
    fields = {"model", "config", "sha256"}
    if not isinstance(described, dict) or not fields <= set(described) or not set(ROLES) <= set(described["sha256"]):
        raise ZooError(f"{folder} holds no model of ours: {CONFIG} lacks {', '.join(sorted(fields))}")
    return described


def _read(path: Path, sha256: str) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ZooError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ZooError(f"{path} is not what its {CONFIG} says: it is damaged or was replaced; get it again")
    try:
        return load(data)
    except SafetensorError as error:
        raise ZooError(f"{path} is not a safetensors file: {error}") from error
