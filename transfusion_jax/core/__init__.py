"""What everything stands on: pytrees, axis names, commands; imports nothing of ours."""
