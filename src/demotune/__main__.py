"""`python -m demotune`, and `accelerate launch -m demotune` for several processes."""

from demotune.cli.main import main

if __name__ == "__main__":
    main()
