"""The device and the precision that params ask for, or why they cannot be had."""

import pytest
import torch

from reprogpt.runtime import device as module
from reprogpt.runtime.device import autocast, peak_flops, pick_device, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_auto_is_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto", 1) == torch.device("cuda", 1)
    assert pick_device("cuda:0", 1) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"runtime.device=cuda needs GPU 2, .* are 2; lower"):
        pick_device("cuda", 2)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"params.yaml: runtime.device={name}.* set it to auto"):
        pick_device(name)


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_auto_precision_by_the_gpus_age(capability: tuple[int, int], precision: str,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", CUDA) == precision
    assert resolve_precision("tf32", CUDA) == "tf32"


@pytest.mark.parametrize(("found", "precision"), [({"amx_bf16": True}, "bfloat16"),
                                                  ({"avx512_bf16": True}, "bfloat16"),
                                                  ({"avx512_f": True}, "float32")])
def test_auto_precision_by_the_processor(found: dict[str, bool], precision: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert resolve_precision("auto", CPU) == precision


def test_tf32_needs_cuda() -> None:
    with pytest.raises(ValueError, match="train.precision=tf32 .* set it to auto or float32"):
        resolve_precision("tf32", CPU)


def test_autocast_lowers_products_and_keeps_weights() -> None:
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert layer(x).dtype == dtype
        assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(("name", "flops"), [("NVIDIA H100 80GB HBM3", 989e12), ("Tesla T4", 65e12),
                                             ("NVIDIA H100 PCIe", 756e12), ("NVIDIA L40S", 362e12),
                                             ("NVIDIA L4", 121e12), ("NVIDIA Z9", None)])
def test_peak_flops_by_name(name: str, flops: float | None, monkeypatch: pytest.MonkeyPatch
                            ) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(CUDA) == flops
    assert peak_flops(CPU) is None


def test_freed_memory_is_kept_where_glibc_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, option: int, value: int) -> None:
            said.append((option, value))

    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: Libc())
    monkeypatch.setattr(module.platform, "libc_ver", lambda: ("", ""))
    module.keep_freed_memory()
    assert said == []
    monkeypatch.setattr(module.platform, "libc_ver", lambda: ("glibc", "2.39"))
    module.keep_freed_memory()
    assert said == [(-4, 0), (-1, 2**31 - 1)]
