"""`python -m mlplatform.commands` is the `mlplatform` command."""

from mlplatform.commands import main

if __name__ == "__main__":
    main()
