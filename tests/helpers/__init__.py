"""What several tests share: tiny models and runs, rows, run folders, servers. Nothing here is a test."""
