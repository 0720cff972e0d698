"""Heartbeats of all ranks: if one is lost, the run ends and reports which, and where it was."""

from maris_fast.train.heartbeat.diagnosis import LOST
from maris_fast.train.heartbeat.rank import Heartbeat

__all__ = ["LOST", "Heartbeat"]
