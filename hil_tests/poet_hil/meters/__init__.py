"""Energy meters behind one interface: a PPK2, a Joulescope, and QEMU's executed cycles at the board's power figures."""
