"""Memory that a process keeps: no page is paid for twice."""

import subprocess
import sys

import pytest
from conftest import ROOT

from jaxdl.cluster import allocator

SAID = """
import resource, sys
{before}
from jaxdl.cluster.allocator import keep_memory
kept = keep_memory()
import numpy as np

def faults():
    count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MiB, 32768 small pages, given back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - count

faults()
print(kept, max(faults() for _ in range(5)))
"""


def said(before=""):
    command = [sys.executable, "-c", SAID.format(before=before)]
    kept, faults = subprocess.check_output(command, cwd=ROOT, text=True, timeout=60).split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_given_back_is_not_paid_for_again():
    kept, faults = said()
    assert not kept or faults < 100


def test_the_host_of_an_accelerator_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(allocator, "ACCELERATORS", (f"{str(tmp_path)[1:]}/nvidia[0-9]*",))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert not allocator._serves_accelerator()
    (tmp_path / "nvidia0").touch()
    assert allocator._serves_accelerator()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not allocator._serves_accelerator()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space")
def test_little_address_space_is_no_obstacle():
    kept, faults = said("resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))")
    assert not kept or faults < 100
