"""What every package uses: errors, files, processes, progress, statistics."""
