"""`python -m grlo` is the command `grlo`."""

from grlo.cli import main

if __name__ == "__main__":
    main()
