"""Building the generated project: PlatformIO for the board, the C compiler for the host."""
