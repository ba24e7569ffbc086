"""The child process of `convert`: loads a pickle with torch's restricted loader, writes safetensors, exits.

It is run as a file, so that torch and safetensors are all that is imported; it answers by its exit status,
which `convert` puts into words, and says nothing. The file is opened only once the limits are set.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections import OrderedDict
from typing import Any

UNSAFE, STRUCTURE, DAMAGED, MEMORY, WRITE = 10, 11, 12, 13, 14


def main(source: str, target: str, seconds: int, megabytes: int) -> int:
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    _limit(seconds, megabytes)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
        tensors = _flat(loaded, torch.Tensor, torch.nn.Parameter)
        if tensors is None:
            return STRUCTURE
        kept = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        del loaded, tensors
    except MemoryError:
        return MEMORY
    except pickle.UnpicklingError:
        return UNSAFE
    except RuntimeError as fault:  # its text is torch's own, about the archive or the machine
        words = fault.args[0] if fault.args and type(fault.args[0]) is str else ""
        if "memory" in words[:2000]:
            return MEMORY
        return UNSAFE if "TorchScript" in words[:2000] else DAMAGED
    except Exception:
        return DAMAGED
    try:
        save_file(kept, target)
    except MemoryError:
        return MEMORY
    except Exception:
        return WRITE
    return 0


def _flat(loaded: Any, *kinds: type) -> dict[str, Any] | None:
    """The named tensors, or None where it is anything else. Looks one level deep and prints nothing."""
    if _is_map(loaded) and len(loaded) == 1 and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not _is_map(loaded) or not loaded:
        return None
    for name, value in loaded.items():
        if type(name) is not str or not name or name == "__metadata__" or type(value) not in kinds:
            return None
        if not _is_unicode(name) or not _is_plain(value):
            return None
    return dict(loaded)


def _is_map(loaded: Any) -> bool:
    return type(loaded) in (dict, OrderedDict)


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_plain(value: Any) -> bool:
    """Dense, on the CPU, and no larger than the memory behind it (a stretched view could be of any size)."""
    import torch

    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _limit(seconds: int, megabytes: int) -> None:
    """Limits on processor time, on memory beyond what is in use, and no core file. Nothing where there are none."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 1))
        with open("/proc/self/statm") as file:
            in_use = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = in_use + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
