"""What the program asks of the machine: files, locks, processes, signals, launchers, terminal."""
