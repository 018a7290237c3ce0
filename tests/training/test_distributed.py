"""The memory that a process keeps between steps."""

import os
import subprocess
import sys

import pytest


def faults(keep, kinds):
    """Return, for each kind of tensors, how often a process that makes them again and again asks for a page."""
    script = f"""if True:
        import resource, torch
        from chatformer.training.distributed import keep_freed_memory
        if {keep}:
            keep_freed_memory()
        for sizes in {kinds}:
            for turn in range(15):
                if turn == 5:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                tensors = [torch.ones(mebibytes * 2**18) for mebibytes in sizes]
                del tensors
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    # As glibc begins: what it would raise them to depends on what was freed before.
    tunables = "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072"
    environment = os.environ | {"GLIBC_TUNABLES": tunables}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True, text=True
    ).stdout
    return [int(line) for line in printed.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept_but_of_the_largest_blocks():
    # The last one fits into no gap that the others leave.
    kinds = [[16] * 4, [8] * 8, [4] * 16, [96]]
    *kept, large = faults(True, kinds)
    assert sum(kept) < sum(faults(False, kinds)[:-1]) / 10
    assert large > 10 * 96 * 2**20 / 2**16
