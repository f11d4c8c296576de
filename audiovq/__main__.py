"""`python -m audiovq` is the command `audiovq`."""

from audiovq.cli.main import main

if __name__ == "__main__":
    main()
