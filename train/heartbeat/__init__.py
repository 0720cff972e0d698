"""Every rank is heard all the time, or the run ends and says who was not, and where."""

from maris_fast.train.heartbeat.diagnosis import LOST
from maris_fast.train.heartbeat.rank import Heartbeat

__all__ = ["LOST", "Heartbeat"]
