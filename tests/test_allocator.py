"""What the C library holds for the next tensors counts as free memory."""

import platform

import pytest
import torch

from demotune.allocator import keep_memory, kept_bytes
from demotune.sampling.memory import free_bytes

SIZE = 2**28


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back")
def test_a_tensor_that_is_gone_is_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMOTUNE_KEEP_MEMORY", raising=False)
    assert keep_memory()
    tensor = torch.ones(SIZE // 4)
    kept, free = kept_bytes(), free_bytes(torch.device("cpu"))
    del tensor
    assert kept_bytes() - kept > 0.9 * SIZE
    assert free_bytes(torch.device("cpu")) - free > 0.5 * SIZE  # of a machine that others use too
