"""The same bytes give the same symbols, whatever the machine does; the pictures may differ in the last digits."""

import copy
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from symbols import WITHOUT_AVX, decoded_symbols, digest, sent_symbols

import compressai_gen
from compressai_gen.entropy.container import unpack
from compressai_gen.entropy.exact import Snap
from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.models import CGDM, base

QUALITIES = (2, 5)
SIZE = (96, 160)

DECODE_ELSEWHERE = """
import sys, torch
from symbols import decoded_symbols, digest
from compressai_gen.zoo import ARCHITECTURES

for job in torch.load(sys.argv[1]):
    model = ARCHITECTURES[job["codec"]].from_state_dict(job["state"]).eval()
    print(digest(decoded_symbols(model, [job["string"]], job["shape"])[0]))
"""


@contextmanager
def _threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def _channels_last(model):
    return copy.deepcopy(model).float().to(memory_format=torch.channels_last)


def _same(model):
    return model


CONDITIONS = {
    "one thread": (lambda: _threads(1), _same),
    "three threads": (lambda: _threads(3), _same),
    "bfloat16 autocast": (lambda: torch.autocast("cpu", dtype=torch.bfloat16), _same),
    "without oneDNN": (lambda: torch.backends.mkldnn.flags(enabled=False), _same),
    "channels last": (nullcontext, _channels_last),
}


def _compress(model, x, quality):
    out = model.compress(x, quality)
    return out["strings"][0], out["shape"]


@torch.no_grad()
def _assert_half_a_step_off(model, decoded, x, quality):
    q = torch.tensor([quality - 1])
    with bfloat16_autocast(x.device):
        y = model.analyze(model.pad(x), q)
    y_hat = decoded[:, : y.numel()].reshape(y.shape)
    error = (y_hat - y) * model.latent_codec.log_gain[q].exp()[..., None, None]
    assert error.abs().max() < 0.5 + 1e-4


@pytest.fixture(scope="module")
def three(photograph):
    return torch.cat([photograph(*SIZE, top, left) for top, left in ((40, 150), (200, 100), (340, 40))])


@pytest.mark.parametrize("encode_condition", CONDITIONS)
def test_symbols_survive_a_change_of_machine_settings(random_model, three, encode_condition):
    context, convert = CONDITIONS[encode_condition]
    x = three[:1]
    for quality in QUALITIES:
        with context():
            encoder = convert(random_model)
            strings, shape = _compress(encoder, x, quality)
            sent = sent_symbols(encoder, x, quality)
        for context_there, convert_there in CONDITIONS.values():
            with context_there():
                assert torch.equal(decoded_symbols(convert_there(random_model), strings, shape), sent)


def test_symbols_of_a_batch_are_those_of_its_images(random_model, three):
    for quality in QUALITIES:
        strings, shape = _compress(random_model, three, quality)
        together = decoded_symbols(random_model, strings, shape)
        assert torch.equal(together, sent_symbols(random_model, three, quality))
        for i, string in enumerate(strings):
            assert torch.equal(decoded_symbols(random_model, [string], shape)[0], together[i])


def test_single_images_are_decoded_in_a_batch(random_model, three):
    singles = [_compress(random_model, x[None], 3) for x in three]
    together = decoded_symbols(random_model, [strings[0] for strings, _ in singles], SIZE)
    for i, (strings, shape) in enumerate(singles):
        assert torch.equal(decoded_symbols(random_model, strings, shape)[0], together[i])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("there", "here"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_symbols_survive_the_way_between_cpu_and_gpu(random_model, three, there, here):
    encoder, decoder = (copy.deepcopy(random_model).to(device) for device in (there, here))
    for quality in QUALITIES:
        strings, shape = _compress(encoder, three.to(there), quality)
        assert torch.equal(decoded_symbols(decoder, strings, shape), decoded_symbols(encoder, strings, shape))


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "2"},
        WITHOUT_AVX | {"OMP_NUM_THREADS": "1"},
    ],
    ids=["two threads", "old processor"],
)
def test_symbols_are_the_same_in_another_process(random_models, three, tmp_path, environment):
    jobs, expected = [], []
    for codec, model in random_models.items():
        strings, shape = _compress(model, three[:1], 4)
        jobs.append({"codec": codec, "state": model.state_dict(), "string": strings[0], "shape": tuple(shape)})
        expected.append(digest(decoded_symbols(model, strings, shape)[0]))
    torch.save(jobs, tmp_path / "jobs.pt")
    folders = Path(compressai_gen.__file__).parents[1], Path(__file__).parent
    path = os.pathsep.join(filter(None, (*map(str, folders), os.environ.get("PYTHONPATH"))))
    output = subprocess.run(
        [sys.executable, "-c", DECODE_ELSEWHERE, tmp_path / "jobs.pt"],
        env=os.environ | environment | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output.split() == expected


@pytest.mark.parametrize("phase", [1, 8, 15])
def test_stream_of_any_phase_is_decoded(random_model, three, phase, monkeypatch):
    monkeypatch.setattr(base, "encode_at_safe_phase", lambda encode: (phase, encode(Snap(phase, check=True))))
    x, quality = three[:1], 4
    strings, shape = _compress(random_model, x, quality)
    assert unpack(random_model.name, strings[0], shape).phase == phase
    decoded = decoded_symbols(random_model, strings, shape)
    if isinstance(random_model, CGDM):  # means are rounded at other places, so y_hat moves; it stays within half a step
        _assert_half_a_step_off(random_model, decoded, x, quality)
    else:
        assert torch.equal(decoded, sent_symbols(random_model, x, quality))


def test_wrong_phase_decodes_to_something_else(random_model, three, monkeypatch):
    strings, shape = _compress(random_model, three[:1], 4)
    right = decoded_symbols(random_model, strings, shape)
    monkeypatch.setattr(base, "Snap", lambda phase: Snap(phase + 3))
    assert not torch.equal(decoded_symbols(random_model, strings, shape), right)


def test_model_whose_outputs_lie_on_a_boundary_chooses_another_phase(tiny_cgdm, photograph):
    torch.manual_seed(0)
    model = tiny_cgdm()
    with torch.no_grad():
        for parameters, channels in zip(model.latent_codec.parameters_of, (8, 8), strict=True):
            parameters.fuse[-1].bias[:channels] = 1 / 64  # a mean half way between two steps of 1/32
    model.eval().update()
    strings, shape = _compress(model, photograph(64, 64), 3)
    assert unpack("cgdm", strings[0], shape).phase == 1
    _assert_half_a_step_off(model, decoded_symbols(model, strings, shape), photograph(64, 64), 3)
