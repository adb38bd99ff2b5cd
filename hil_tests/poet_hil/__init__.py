"""Talks to a running board or emulator: link, targets, training sessions and energy meters."""
