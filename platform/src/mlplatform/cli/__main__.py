"""`python -m mlplatform.cli`: the same as the `mlplatform` command."""

from mlplatform.cli import main

if __name__ == "__main__":
    main()
