"""Operators: one file a family. Each file registers its ops on import; registry.get() finds them by name."""
