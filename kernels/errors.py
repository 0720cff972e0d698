"""The error of an implementation that was asked for by name and can't do what was asked."""


class UnsupportedError(RuntimeError):
    """A named ``impl`` does not support these inputs on this machine; the message says why."""
