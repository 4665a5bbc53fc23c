from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgekit.measure import machine
from edgekit.measure.machine import describe, int8_class, parse_cpuinfo

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse4_2 avx avx2 avx512f avx512bw avx512_vnni amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Processor
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse4_2 avx avx2 avx512f avx512bw avx512_vnni amx_int8

processor\t: 2
model name\t: Intel(R) Xeon(R) Processor
physical id\t: 1
core id\t\t: 0
flags\t\t: fpu sse4_2 avx avx2 avx512f avx512bw avx512_vnni amx_int8
"""

RASPBERRY = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41

Hardware\t: BCM2712
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_x86():
    name, flags, cores = parse_cpuinfo(XEON)
    assert name == "Intel(R) Xeon(R) Processor"
    assert flags == ("avx2", "avx512f", "avx512bw", "avx512_vnni", "amx_int8")
    assert cores == 2


def test_arm():
    name, flags, cores = parse_cpuinfo(RASPBERRY)
    assert name == "Raspberry Pi 5 Model B Rev 1.0"
    assert flags == ("asimd", "asimddp")
    assert cores is None


def test_nonsense():
    assert parse_cpuinfo("") == ("", (), None)
    assert parse_cpuinfo("no colon\n::::\n") == ("", (), None)


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), "vnni"),
        ("x86_64", ("avx2", "avx_vnni"), "vnni"),
        ("x86_64", ("avx2", "avx512f"), "avx2"),
        ("x86_64", (), "none"),
        ("aarch64", ("asimd", "asimddp"), "arm-dot"),
        ("arm64", ("asimd", "i8mm"), "arm-dot"),
        ("aarch64", ("asimd",), "arm"),
        ("arm64", (), "arm"),
        ("riscv64", (), "none"),
    ],
)
def test_int8_class(architecture, flags, expected):
    assert int8_class(architecture, flags) == expected


def test_this_machine():
    found = describe()
    assert found.cpu
    assert 1 <= found.cores <= found.threads
    assert 1 <= found.usable <= found.threads
    assert found.versions["onnxruntime"] == metadata.version("onnxruntime")
    assert set(found.versions) == {"numpy", "opencv", "onnx", "onnxruntime"}
    assert json.loads(json.dumps(found.to_dict()))["int8"] == found.int8


def test_it_imports_nothing_heavy():
    code = (
        "import sys, edgekit.measure.machine as m; m.describe();"
        "sys.exit(bool({'numpy', 'cv2', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    root = Path(machine.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_it_never_raises_where_nothing_can_be_read(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: "")
    monkeypatch.setattr(machine, "_sysctl", lambda key: "")
    monkeypatch.setattr(machine.os, "getloadavg", _refuse)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: None)
    monkeypatch.setattr(machine.metadata, "version", _missing)
    for system in ("linux", "darwin", "win32"):
        monkeypatch.setattr(machine.sys, "platform", system)
        found = describe()
        assert (found.load, found.governor, found.quota, found.flags, found.versions) == (None, None, None, (), {})


def _refuse():
    raise OSError


def _missing(name):
    raise metadata.PackageNotFoundError(name)


def test_apple_silicon(monkeypatch):
    answers = {
        "machdep.cpu.brand_string": "Apple M2",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_I8MM": "1",
        "hw.optional.AdvSIMD": "1",
        "hw.physicalcpu": "8",
    }
    monkeypatch.setattr(machine, "_sysctl", lambda key: answers.get(key, ""))
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    found = describe()
    assert (found.cpu, found.cores, found.int8) == ("Apple M2", 8, "arm-dot")
    assert found.flags == ("asimd", "asimddp", "i8mm")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_container_quota(monkeypatch, files, expected):
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    assert describe().quota == expected
