"""Interfaces to the machine: files, locks, processes, signals, launchers, terminal."""
