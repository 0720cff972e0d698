"""The error for an implementation that was requested by name and does not support the call."""


class UnsupportedError(RuntimeError):
    """A named ``impl`` does not support these inputs on this machine; the message says why."""
