"""``python -m pkcompiler`` is ``pkc``."""

from pkcompiler.cli import main

if __name__ == "__main__":
    main()
