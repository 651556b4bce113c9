"""What a run leaves on disk: one reader and one writer of every file."""
