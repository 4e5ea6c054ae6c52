"""What `pkc explain` says."""
