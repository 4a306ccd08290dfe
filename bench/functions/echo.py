"""A stateless function: the answer is the message. The shim is copied beside it."""
# mypy: ignore-errors

from shim import handler, serve


@handler(name="call", reads_only=True)
def echo(ctx, message):
    return message


if __name__ == "__main__":
    serve()
