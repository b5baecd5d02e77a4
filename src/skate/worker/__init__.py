"""The worker process: runs tasks one by one, or hosts one actor."""
