"""The profiler: counts what an emulated target executes, region by region, and prices it with a core's timing table."""
