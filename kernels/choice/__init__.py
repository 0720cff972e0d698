"""Which implementation a call gets: the fastest that was right on this very machine.

An operation declares its candidates, and how a call falls into a kind (``Operation``). ``prove`` tries the
candidates of a kind in a child process and writes down what came of it; ``chosen`` looks that up, and does
nothing else.
"""

from maris_fast.kernels.choice.operation import Operation, of, text
from maris_fast.kernels.choice.proving import prove
from maris_fast.kernels.choice.table import Certificates, chosen

__all__ = ["Certificates", "Operation", "chosen", "of", "prove", "text"]
