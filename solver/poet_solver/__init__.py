"""Energy-optimal schedules of recomputation and paging under a memory and time budget."""
