"""Whether this machine can do a run: checks that run small things, each in a process of its own."""

from maris_fast.doctor.checks import CHECKS, MEETING
from maris_fast.doctor.examining import Check, Result, examine
from maris_fast.doctor.finding import Finding, Status
from maris_fast.doctor.subject import Subject

__all__ = ["CHECKS", "MEETING", "Check", "Finding", "Result", "Status", "Subject", "examine"]
