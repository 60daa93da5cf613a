"""CompressAI learns of our models as soon as it is imported, and is imported only where something needs it.

CompressAI's tools find models in two dictionaries, and its registry knows those of modules that were imported. Filling
them takes PyTorch and all of CompressAI, seconds that ``compressai-gen --help`` need not wait for. So importing this
package only has the import of CompressAI end in :mod:`compressai_gen.zoo`, which fills them.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["register_with_compressai"]

_OURS = "compressai_gen"


def register_with_compressai() -> None:
    """Fill CompressAI's dictionaries now, if it is imported already, or else as soon as it is."""
    if "compressai" in sys.modules:
        importlib.import_module(f"{_OURS}.zoo")
    elif not any(isinstance(finder, _Registration) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Registration())


class _Registration(MetaPathFinder):
    """Waits for the import of CompressAI, and registers when it has ended."""

    loaded = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return CompressAI's spec with a loader that registers afterwards, and None for all other modules."""
        if name == "compressai":
            return self._registering(PathFinder.find_spec(name, path, target))
        if self.loaded and name.startswith("compressai."):
            self._finish()
        return None

    def _registering(self, spec: ModuleSpec | None) -> ModuleSpec | None:
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            with warnings.catch_warnings():
                # Those of CompressAI's own imports, which no user of ours can heed.
                warnings.simplefilter("ignore", FutureWarning)
                load(module)
            self.loaded = True
            self._finish()

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec

    def _finish(self) -> None:
        """Register and wait no more, unless a module of ours that needs CompressAI is half-made at this moment.

        The import of that one goes on to :mod:`compressai_gen.zoo` or :mod:`compressai_gen.models`, whose ends
        register; if not, the next module of CompressAI that is imported is another chance.
        """
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == _OURS]
        if any(getattr(module.__spec__, "_initializing", False) for module in ours):
            return
        sys.meta_path.remove(self)
        importlib.import_module(f"{_OURS}.zoo")
