"""Programs that start runs: on this machine as several processes, or on TPUs."""
