"""`python -m consistency_service` is `ccs`."""

from consistency_service.cli import main

if __name__ == "__main__":
    main()
