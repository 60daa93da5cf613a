"""The documentation builds as a site, without a warning and without anything from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_site_builds_without_warnings_and_stands_alone(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    pytest.importorskip("material", reason="the extra 'docs' is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra 'docs' is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/papers/cgdm/index.html").read_text(encoding="utf-8")
    assert 'href="../../api/models/#compressai_gen.models.cgdm.CGDM"' in page
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', page) == []
    assert (tmp_path / "site/results/kodak/rd_lpips.png").stat().st_size > 1000
    assert "Evaluation protocol" in (tmp_path / "site/protocol/index.html").read_text(encoding="utf-8")
