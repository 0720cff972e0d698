"""The choice of a call's implementation: the fastest that was proven right on this machine.

An operation declares its candidates and the kinds that calls fall into (``Operation``). ``prove`` tries the
candidates of a kind in a child process and records the results; ``chosen`` only looks them up.
"""

from maris_fast.kernels.choice.operation import Operation, of, text
from maris_fast.kernels.choice.proving import prove
from maris_fast.kernels.choice.table import Certificates, chosen

__all__ = ["Certificates", "Operation", "chosen", "of", "prove", "text"]
