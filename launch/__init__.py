"""Launchers: start runs as several processes on this machine, or on TPUs."""
