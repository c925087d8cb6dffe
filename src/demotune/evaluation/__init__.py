"""Judge models honestly: measures, judges, tasks, leaks, shortcuts, comparison of runs."""
