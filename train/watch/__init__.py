"""Every rank is heard all the time, or the run ends and says who was not, and where."""

from maris_fast.train.watch.verdict import LOST
from maris_fast.train.watch.watch import Watch

__all__ = ["LOST", "Watch"]
