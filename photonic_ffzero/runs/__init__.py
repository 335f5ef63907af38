"""What a run leaves on the disk, and grids of runs."""
