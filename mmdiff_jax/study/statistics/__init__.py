"""From answers to a report: exclusion, estimates, intervals."""
