"""``python -m cxraug``: the command line."""

from cxraug.cli.main import main

if __name__ == "__main__":
    main()
