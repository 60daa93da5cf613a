"""Both codecs with seeded random weights: quick to have, and with probabilities that depend on the picture."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from urllib.error import URLError

# Workers share the processors. OpenMP reads this when PyTorch loads it, as do the programs that tests start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
import torch
import torch.nn.functional as F
from narrow import TINY_CGDM

from compressai_gen.data import load_dataset
from compressai_gen.layers.transforms import BLOCK, init_linear_paths, klt
from compressai_gen.metrics import package_index, weights
from compressai_gen.models import CGDM, MRIDC

CODECS = ("cgdm", "mridc")


@pytest.fixture(scope="session")
def photograph():
    """Returns crops (1, 3, height, width) in [0, 1] of a photograph that scikit-image carries."""
    image = next(iter(load_dataset("samples", limit=1)))[1].float()[None] / 255

    def crop(height, width, top=40, left=150):
        return image[:, :, top : top + height, left : left + width].contiguous()

    return crop


@pytest.fixture(scope="session")
def random_models(photograph):
    """Never change these models: copy them first."""
    patches = F.unfold(photograph(464, 336), BLOCK, stride=BLOCK)[0].T.reshape(-1, 3, BLOCK, BLOCK)
    return {"cgdm": _random_cgdm(patches), "mridc": _random_mridc(patches)}


@pytest.fixture(params=CODECS)
def random_model(request, random_models):
    """Each codec in turn; never change it: copy it first."""
    return random_models[request.param]


@pytest.fixture
def tiny_cgdm():
    """Makes untrained CGDMs with all parts, very narrow."""
    return lambda **config: CGDM(**(TINY_CGDM | config))


@pytest.fixture(scope="session")
def kodak():
    """Returns the first images of Kodak (1, 3, H, W) in [0, 1]."""
    folder = Path(os.environ.get("COMPRESSAI_GEN_DATA", "unset")) / "kodak"
    if not folder.is_dir():
        pytest.skip("COMPRESSAI_GEN_DATA has no kodak")
    return [image[None].float() / 255 for _, image in load_dataset("kodak", folder.parent, limit=2)]


@pytest.fixture
def open_browser(tmp_path):
    """Opens headless Chromium: ``open_browser(profile="profile", scale=1, size=(1280, 900))`` gives a Selenium driver.

    What pages store lies in the profile, a folder of the test's own: a browser that is quit and opened again with the
    same one is that of a visitor who comes back. It reaches this machine only, files that it downloads come to
    ``tmp_path / "downloads"``, and what is open at the end of the test is quit.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    program = shutil.which("chromedriver")
    if binary is None or program is None:
        pytest.skip("no browser: install chromium and chromium-driver (chromedriver)")
    with ExitStack() as opened:

        def open_one(profile="profile", scale=1, size=(1280, 900)):
            options = webdriver.ChromeOptions()
            options.binary_location = binary
            for argument in (
                "--headless=new",
                "--no-sandbox",  # which refuses root, as in containers
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
                f"--user-data-dir={tmp_path / profile}",
                f"--force-device-scale-factor={scale}",
                f"--window-size={size[0]},{size[1]}",
            ):
                options.add_argument(argument)
            downloads = {
                "download.default_directory": str(tmp_path / "downloads"),
                "download.prompt_for_download": False,
            }
            options.add_experimental_option("prefs", downloads)
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            driver = webdriver.Chrome(options, webdriver.ChromeService(program))
            opened.callback(driver.quit)  # which may be called twice
            return driver

        yield open_one


def _random_cgdm(patches):
    torch.manual_seed(0)
    model = CGDM()
    basis, mean, std = klt(patches, model.latent_codec.channels)
    init_linear_paths(model.g_a, model.g_s, basis, mean)
    # Wider than they are: outliers, which an untrained prior does not foresee, cost less than their likelihoods say.
    model.latent_codec.init_statistics(2 * std, (1.6, 1.15, 0.8, 0.55, 0.38))
    _fill_zero_weights(model, 0.005)
    for parameters in (model.latent_codec.prior.first, model.latent_codec.prior.second):
        torch.nn.init.normal_(parameters.out.weight, std=0.05)
    torch.nn.init.normal_(model.latent_codec.h_a.down.weight, std=0.1)  # else z would be zero
    torch.nn.init.normal_(model.syntax.head.weight, std=8)
    model.eval().update()
    return model


def _random_mridc(patches):
    torch.manual_seed(0)
    model = MRIDC()
    quantizer = model.quantizer
    basis, mean, std = klt(patches, quantizer.codebooks.shape[2])
    init_linear_paths(model.g_a, model.g_s, basis, mean)
    model.code_std.copy_(std)
    codebooks = torch.randn(quantizer.codebooks.shape) * std * torch.tensor([1.0, 0.5])[:, None, None]
    quantizer.set_codebooks(codebooks, torch.ones(codebooks.shape[:2]))
    _fill_zero_weights(model, 0.005)
    for head in (*model.predictor.heads, model.mask_predictor.head):
        torch.nn.init.normal_(head.weight, std=0.06)
    model.eval().update()
    return model


@torch.no_grad()
def _fill_zero_weights(model, std):
    """Gives every weight that starts at zero a value, so that no part of the network is silent."""
    for parameter in model.parameters():
        if parameter.dim() >= 2 and not parameter.any():
            parameter.normal_(std=std)


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """A machine without weights of metrics that reaches neither torch's server nor a package index.

    Returns the list of what was tried to fetch.
    """
    fetched = []

    def unreachable(what, *args, **kwargs):
        fetched.append(what)
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setattr(package_index, "fetch_convolutions", unreachable)
    monkeypatch.setattr(weights, "_unreachable", {})
    return fetched
