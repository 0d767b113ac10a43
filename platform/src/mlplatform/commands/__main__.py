"""`python -m mlplatform.commands`: the same as the `mlplatform` command."""

from mlplatform.commands import main

if __name__ == "__main__":
    main()
