"""Other ways to schedule the same Problem, for comparison."""
