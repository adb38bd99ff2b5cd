"""The kinds of target: a serial port, and firmware that runs as a process of this machine."""
