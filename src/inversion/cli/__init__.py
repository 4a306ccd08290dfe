"""Click commands."""


def main() -> None: ...
