"""The `poet` command. Only this package prints, and only it knows solver, code generator and harness together."""
