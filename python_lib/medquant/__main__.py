"""`python -m medquant` is the command `medquant`."""

from medquant.cli import main

if __name__ == "__main__":  # worker processes import this file again
    main()
