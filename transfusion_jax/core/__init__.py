"""What everything stands on: pytrees, axis names and the log; imports nothing of ours."""
