"""What ``map new`` makes of a sample feed: a survey of it, guesses that are marked, and the files of a new pack."""
