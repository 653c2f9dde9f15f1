"""A callable that notes its calls."""


class Counted:
    """A callable that notes its calls."""

    def __init__(self, wrapped):
        self.calls = []
        self._wrapped = wrapped

    def __call__(self, *args, **kwargs):
        self.calls.append(args)
        return self._wrapped(*args, **kwargs)
