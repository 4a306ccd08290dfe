"""The entry point of `inversion` and of `python -m inversion`."""

import os


def main() -> None:
    """Run the command; as PID 1 with an init before it."""
    if os.getpid() == 1:
        from inversion import pid_one, privacy

        privacy.keep_memory_private()  # the init has the same environment
        pid_one.become_two()
    from inversion import cli  # after the fork: the init needs none of it

    cli.main()


if __name__ == "__main__":
    main()
