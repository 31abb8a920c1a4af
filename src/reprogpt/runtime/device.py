"""The device: choosing one, its precision, determinism, memory and peak speed."""

import contextlib
import ctypes
import platform
import re
from contextlib import AbstractContextManager
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "tf32": torch.float32,
          "bfloat16": torch.bfloat16, "float16": torch.float16}

# Dense bf16 FLOP/s (T4, V100: float16), half of what a sheet gives "with sparsity". NVIDIA's
# datasheets of H200, H100 (SXM, PCIe, NVL), DGX B200, A100, A10G, A40, RTX A6000, L40S, L4, V100
# and T4; the whitepapers of the Ada (RTX 4090) and Ampere GA102 (RTX 3090) architectures, with
# float32 sums. The first name that matches counts.
PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "B200": 2250e12,
    "A100": 312e12, "A10G": 70e12, "A40": 149.7e12, "A6000": 154.8e12, "L40S": 362e12,
    "L4": 121e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12, "V100": 125e12, "T4": 65e12,
}


def pick_device(setting: str, local_rank: int = 0) -> torch.device:
    """The device that ``runtime.device`` asks for. Raises ValueError when it is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
               "cpu": True}
    if setting == "auto":
        setting = next(kind for kind, there in present.items() if there)
    device = torch.device(setting)
    if not present[device.type]:
        raise ValueError(f"params.yaml: runtime.device={setting} but torch sees no "
                         f"{device.type.upper()} device; set it to auto or cpu")
    if device.type != "cuda":
        return device
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"params.yaml: runtime.device={setting} needs GPU {index}, but there "
                         f"are {torch.cuda.device_count()}; lower runtime.nproc or device")
    return torch.device("cuda", index)


def resolve_precision(setting: str, device: torch.device) -> str:
    """``train.precision`` without auto, which is bfloat16 where the device computes it natively and
    float32 elsewhere. Raises ValueError for tf32 without CUDA."""
    if setting == "auto":
        return "bfloat16" if computes_bfloat16(device) else "float32"
    if setting == "tf32" and device.type != "cuda":
        raise ValueError(f"params.yaml: train.precision=tf32 needs a CUDA device, not "
                         f"{device.type}; set it to auto or float32")
    return setting


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are native: on GPUs of compute capability 8 and up, and processors
    with AVX-512 BF16 or AMX. Others emulate it, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context of a forward pass in ``precision``; weights stay float32."""
    if DTYPES[precision] == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def set_determinism(deterministic: bool, precision: str) -> None:
    """Makes equal inputs give equal bits on this machine, and allows TF32 unless ``precision`` is
    float32. cuBLAS needs CUBLAS_WORKSPACE_CONFIG before CUDA starts: the launcher sets it."""
    torch.use_deterministic_algorithms(deterministic)
    # Filling uninitialized memory helps debugging, and is slow.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    tf32 = "tf32" if precision != "float32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = tf32
    torch.backends.cudnn.fp32_precision = tf32


def keep_freed_memory() -> None:
    """Makes glibc reuse freed memory: by default the pages of every tensor above 32 MB are mapped
    and faulted in anew in each step. Does nothing on another libc."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD: malloc.h
            ctypes.CDLL(None).mallopt(option, value)


def numerics(device: torch.device) -> dict[str, str]:
    """What a result's last bits depend on besides the params; compared on resume."""
    name = (torch.cuda.get_device_name(device) if device.type == "cuda"
            else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}")
    return {"torch": str(torch.__version__), "device": name,
            "threads": str(torch.get_num_threads())}


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 FLOP/s by its datasheet; None if it is not in PEAK_FLOPS."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if re.search(rf"\b{key}\b", name)), None)


def copy_to(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """x on ``device``; a copy to a GPU overlaps with the GPU's work."""
    if device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work, before a clock is read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
