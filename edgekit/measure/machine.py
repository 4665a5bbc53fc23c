"""The machine that a measurement was made on: what decides int8 speed, and what disturbs a clock."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Int8 = Literal["vnni", "avx2", "arm-dot", "arm", "none"]

INT8_FLAGS = (
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
    "sme",
)
"""Instruction sets that decide int8 speed, by their Linux names: x86 first, then Arm."""

_DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
}

# macOS names of the flags: sysctl keys on Apple silicon, words of machdep.cpu.*features on Intel.
_APPLE_ARM_KEYS = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}
_APPLE_X86_WORDS = {"AVX2": "avx2", "AVX512F": "avx512f", "AVX512BW": "avx512bw", "AVX512VNNI": "avx512_vnni"}


@dataclass(frozen=True)
class Machine:
    """Where a measurement was made; what could not be found out is "", None or absent.

    `cpu`: marketing name. `architecture`: x86_64, aarch64, ... `int8`: "vnni" (x86 with 8-bit dot products), "avx2"
    (x86 without), "arm-dot", "arm" (NEON without dot products), or "none", also when unknown. `flags`: those of
    INT8_FLAGS it has. `cores`: physical; `threads`: logical; `usable`: logical ones this process may run on; `quota`:
    CPUs granted by the container (cgroup), None without a limit. `load`: runnable tasks, mean of the last minute.
    `governor`: Linux frequency policy. `versions`: of the libraries that decide the numbers.
    """

    cpu: str
    architecture: str
    int8: Int8
    flags: tuple[str, ...]
    cores: int
    threads: int
    usable: int
    quota: float | None
    load: float | None
    governor: str | None
    python: str
    platform: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Processor:
    """What the operating system says about the CPU."""

    name: str = ""
    flags: tuple[str, ...] = ()
    cores: int | None = None


def describe() -> Machine:
    """Describe this machine: reads files and asks the system, imports nothing heavy, never raises."""
    architecture = platform.machine()
    processor = _apple_processor() if sys.platform == "darwin" else _linux_processor()
    threads = os.cpu_count() or 1
    return Machine(
        cpu=processor.name or platform.processor() or architecture,
        architecture=architecture,
        int8=int8_class(architecture, processor.flags),
        flags=processor.flags,
        cores=processor.cores or threads,
        threads=threads,
        usable=_usable() or threads,
        quota=_quota(),
        load=_load(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        python=platform.python_version(),
        platform=platform.platform(),
        versions=_versions(),
    )


def int8_class(architecture: str, flags: tuple[str, ...]) -> Int8:
    """Return how a CPU multiplies 8-bit integers, from its `architecture` and its INT8_FLAGS."""
    if {"avx512_vnni", "avx_vnni"} & set(flags):
        return "vnni"
    if "avx2" in flags:
        return "avx2"
    if {"asimddp", "i8mm"} & set(flags):
        return "arm-dot"
    if architecture.lower() in ("aarch64", "arm64") or "asimd" in flags:
        return "arm"
    return "none"


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...], int | None]:
    """Return (name, INT8_FLAGS present, physical cores or None) from the text of /proc/cpuinfo, x86 or Arm."""
    rows = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())]
    first = dict(reversed(rows))
    words = set((first.get("flags") or first.get("Features") or "").split())
    packages = [value for key, value in rows if key == "physical id"]
    core_ids = [value for key, value in rows if key == "core id"]
    cores = len(set(zip(packages, core_ids, strict=False))) or None
    name = first.get("model name") or first.get("Model") or first.get("Hardware") or ""
    return name, tuple(flag for flag in INT8_FLAGS if flag in words), cores


def _linux_processor() -> _Processor:
    name, flags, cores = parse_cpuinfo(_read("/proc/cpuinfo"))
    board = _read("/proc/device-tree/model").strip("\0\n ")  # a Raspberry Pi or Jetson names itself here
    return _Processor(name or board, flags, cores)


def _apple_processor() -> _Processor:
    words = set(f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".upper().split())
    found = {flag for word, flag in _APPLE_X86_WORDS.items() if word in words}
    found |= {flag for key, flag in _APPLE_ARM_KEYS.items() if _sysctl(key) == "1"}
    cores = _sysctl("hw.physicalcpu")
    return _Processor(
        name=_sysctl("machdep.cpu.brand_string"),
        flags=tuple(flag for flag in INT8_FLAGS if flag in found),
        cores=int(cores) if cores.isdigit() else None,
    )


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _usable() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _quota() -> float | None:
    """CPUs granted by cgroup v2 ("max 100000" or "150000 100000") or v1 (two files, -1 for no limit)."""
    words = _read("/sys/fs/cgroup/cpu.max").split() or [
        _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip(),
        _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip(),
    ]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
        return int(words[0]) / int(words[1])
    return None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # AttributeError: Windows has no such function
        return None


def _versions() -> dict[str, str]:
    found = {}
    for library, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                found[library] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found
