"""Whether this machine can do a run: checks that run small things, each in a process of its own."""

from maris_fast.train.doctor.checks import CHECKS, MEETING, Check
from maris_fast.train.doctor.finding import Finding, Status
from maris_fast.train.doctor.running import Result, examine
from maris_fast.train.doctor.subject import Subject

__all__ = ["CHECKS", "MEETING", "Check", "Finding", "Result", "Status", "Subject", "examine"]
