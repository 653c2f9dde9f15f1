"""Watch the operations of torch."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: scalars, lists, and results whose size depends on values."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        tolist = Tensor.tolist

        def counted(tensor):
            self.count += 1
            return tolist(tensor)

        monkeypatch.setattr(Tensor, "tolist", counted)

    def without(self, function, *args, **kwargs):
        """Call a function that does not count."""
        before = self.count
        result = function(*args, **kwargs)
        self.count = before
        return result

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_", "_index_put_impl_") else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        self.count += by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Notes the name of every operation, and the dtype and shape of its result."""

    def __init__(self):
        super().__init__()
        self.results = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.results.append((func.overloadpacket.__name__, result.dtype, tuple(result.shape)))
        return result

    def casts(self, dtype):
        """The shapes of the tensors that were cast to a dtype."""
        return [shape for name, given, shape in self.results if (name, given) == ("_to_copy", dtype)]
