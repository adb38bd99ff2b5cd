"""Graph + schedule -> C project. Decisions are made here in Python; templates hold the text."""
